// Node's service SDKs against the hub's AMQP; driven by test_amqp_clients.py, to which it says one line of JSON for
// each thing that happens. CONNECTION_STRING comes by the environment, as a process's arguments can be read by anyone.
"use strict";

const { once } = require("node:events");

const say = (...words) => console.log(JSON.stringify(words));
const told = once(process.stdin, "data");

// The promises of these methods resolve to something without events; their callbacks get the receiver itself.
const receiver = (client, method) =>
  new Promise((resolve, reject) => client[method]((error, found) => (error ? reject(error) : resolve(found))));

async function service() {
  const { Client } = require("azure-iothub");
  const { Message } = require("azure-iot-common");
  const client = Client.fromConnectionString(process.env.CONNECTION_STRING);
  client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 });
  await client.open();
  const message = new Message(Buffer.from("hello"));
  message.messageId = "9f8b8d1e-0000-4000-8000-000000000001";
  message.ack = "full";
  message.contentType = "text/plain";
  message.expiryTimeUtc = Date.now() + 60000;
  message.properties.add("k", "é");
  say("sent", (await client.send("a%b", message)).result.constructor.name);
  await client.send("nobody", message).catch((error) => say("refused", error.name));
  const feedback = await receiver(client, "getFeedbackReceiver");
  const files = await receiver(client, "getFileNotificationReceiver");
  const tell = (from, kind) =>
    from.on("message", (each) => from.complete(each, () => say(kind, JSON.parse(each.getData().toString()))));
  tell(feedback, "feedback");
  tell(files, "file");
  say("ready");
  await told;
  await client.close();
}

async function events() {
  const { EventHubConsumerClient, earliestEventPosition } = require("@azure/event-hubs");
  const client = new EventHubConsumerClient("$Default", process.env.CONNECTION_STRING);
  const { name, partitionIds } = await client.getEventHubProperties();
  const { lastEnqueuedSequenceNumber } = await client.getPartitionProperties("0");
  say("properties", name, partitionIds, lastEnqueuedSequenceNumber);
  const handlers = {
    processEvents: async (batch) => batch.forEach((event) => say("event", event)),
    processError: async (error) => say("failed", error.name),
  };
  const settings = { startPosition: earliestEventPosition, maxWaitTimeInSeconds: 1 };
  const subscription = client.subscribe(handlers, settings);
  await told;
  await subscription.close();
  await client.close();
}

({ service, events })[process.argv[2]]()
  .catch(async (error) => {
    say("failed", (error.amqpError ?? error).name); // azure-iothub wraps what it is told
    await told;
  })
  .then(() => {
    say("closed");
    process.exit(0);
  });
