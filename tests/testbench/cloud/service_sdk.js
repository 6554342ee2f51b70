// The service SDK for Node, as test_service_sdk_node.py asks it: a connection string and a step on standard input, what
// the SDK gave on standard output, as JSON. The CA comes in NODE_EXTRA_CA_CERTS.
"use strict";

const { Registry, Client, JobClient } = require("azure-iothub");

// What the SDK raises, by the name of its class.
async function raised(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { name: error.name, message: error.message };
  }
}

const body = (result) => ("responseBody" in result ? result.responseBody : result);

const steps = {
  async registry({ connectionString }) {
    const registry = Registry.fromConnectionString(connectionString);
    const created = body(await registry.create({ deviceId: "d#1", capabilities: { iotEdge: true } }));
    const got = body(await registry.get("d#1"));
    const updated = body(await registry.update({ deviceId: "d#1", status: "disabled" }));
    const statistics = body(await registry.getRegistryStatistics());
    await registry.addModule({ deviceId: "d#1", moduleId: "m", managedBy: "me" });
    const module = body(await registry.getModule("d#1", "m"));
    await registry.updateModule({ ...module, managedBy: "you" });
    const modules = body(await registry.getModulesOnDevice("d#1"));
    await registry.removeModule("d#1", "m");
    const added = body(await registry.addDevices([{ deviceId: "b1" }, { deviceId: "b2" }]));
    const bulkUpdated = body(await registry.updateDevices([{ deviceId: "b1", status: "disabled" }], true));
    const bulkFailed = await raised(() => registry.removeDevices([{ deviceId: "missing" }], true));
    await registry.removeDevices([{ deviceId: "b1" }, { deviceId: "b2" }], true);
    const listed = body(await registry.list());
    const errors = {
      again: await raised(() => registry.create({ deviceId: "d#1" })),
      missing: await raised(() => registry.get("missing")),
      wrong: await raised(() => registry.create({ deviceId: "a b" })),
      old: await raised(() => registry.updateModuleTwin("d#1", "$edgeHub", {}, "AAAA")),
    };
    await registry.delete("d#1");
    return { created, got, updated, statistics, modules, added, bulkUpdated, bulkFailed, listed, errors };
  },

  async twins({ connectionString }) {
    const registry = Registry.fromConnectionString(connectionString);
    const twin = body(await registry.getTwin("d0"));
    await twin.update({ tags: { floor: 1 }, properties: { desired: { a: 1 } } });
    const stale = await raised(() => registry.updateTwin("d0", { tags: { floor: 2 } }, "AAAA"));
    const moduleTwin = body(await registry.getModuleTwin("d0", "m"));
    await moduleTwin.update({ properties: { desired: { b: 2 } } });
    const query = registry.createQuery("SELECT * FROM devices", 2);
    const pages = [];
    while (query.hasMoreResults) {
      pages.push((await query.nextAsTwin()).result.map((each) => each.deviceId));
    }
    const counted = (await registry.createQuery("SELECT COUNT() AS n FROM devices").next()).result;
    const wrong = await raised(() => registry.createQuery("SELECT * FROM nowhere").next());
    return { tags: twin.tags, etag: twin.etag, stale, pages, counted, wrong };
  },

  async method({ connectionString }) {
    const client = Client.fromConnectionString(connectionString);
    const call = { methodName: "reboot", payload: { in_s: 5 }, responseTimeoutInSeconds: 20 };
    const answer = (await client.invokeDeviceMethod("there", call)).result;
    const away = await raised(() => client.invokeDeviceMethod("away", call));
    const unknown = await raised(() => client.invokeDeviceMethod("unknown", call));
    return { answer, away, unknown };
  },

  async configurations({ connectionString }) {
    const registry = Registry.fromConnectionString(connectionString);
    const content = { deviceContent: { "properties.desired.a": 1 } };
    const added = body(await registry.addConfiguration({ id: "c", content, targetCondition: "*", priority: 1 }));
    const got = body(await registry.getConfiguration("c"));
    await registry.updateConfiguration({ ...got, priority: 2 });
    const listed = body(await registry.getConfigurations());
    const modulesContent = { m: { "properties.desired": { a: 1 } } };
    await registry.applyConfigurationContentOnDevice("edge", { modulesContent });
    await registry.removeConfiguration("c");
    const missing = await raised(() => registry.getConfiguration("c"));
    return { added, listed, missing };
  },

  async jobs({ connectionString }) {
    const jobs = JobClient.fromConnectionString(connectionString);
    await jobs.scheduleTwinUpdate("j", "deviceId IN ['d']", { etag: "*", tags: { job: 1 } }, new Date(), 60);
    let job;
    do {
      job = (await jobs.getJob("j")).jobStatus;
    } while (!["completed", "failed"].includes(job.status));
    const later = new Date(Date.now() + 3600 * 1000);
    await jobs.scheduleDeviceMethod("later", "*", { methodName: "reboot" }, later, 60);
    const cancelled = (await jobs.cancelJob("later")).jobStatus;
    const listed = (await jobs.createQuery("scheduleUpdateTwin", "completed", 10).next()).result;
    return { job, cancelled: cancelled.status, listed: listed.map((each) => each.jobId) };
  },

  async denied({ connectionString }) {
    return raised(() => Registry.fromConnectionString(connectionString).get("d"));
  },
};

let input = "";
process.stdin.on("data", (data) => (input += data));
process.stdin.on("end", async () => {
  const asked = JSON.parse(input);
  process.stdout.write(JSON.stringify(await steps[asked.step](asked)), () => process.exit(0));
});
