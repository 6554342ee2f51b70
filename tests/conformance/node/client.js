// The device SDK for Node as a process that a test drives: one JSON object a line on standard input, one on standard
// output. `sdk_node.py` is the other side.
//
//   out  {}                                                ready, once at the start
//   in   {"id": 1, "client": "a", "do": "send", ...}       what to do; `id` comes back in the answer
//   out  {"id": 1, "result": ...}                          done
//   out  {"id": 1, "error": {"name": ..., "message": ...}} not done: the SDK's error
//   out  {"client": "a", "event": "command", ...}          what a client received
//
// Bodies are base64. The certificate authority to trust is the process's (NODE_EXTRA_CA_CERTS).

'use strict';

const readline = require('readline');
const { Readable } = require('stream');
const { NoRetry } = require('azure-iot-common');
const { Client, Message, ModuleClient, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');

const hubTransports = {
  mqtt: () => require('azure-iot-device-mqtt').Mqtt,
  'mqtt-ws': () => require('azure-iot-device-mqtt').MqttWs,
  http: () => require('azure-iot-device-http').Http,
};
const provisioningTransports = {
  mqtt: () => require('azure-iot-provisioning-device-mqtt').Mqtt,
  'mqtt-ws': () => require('azure-iot-provisioning-device-mqtt').MqttWs,
  http: () => require('azure-iot-provisioning-device-http').Http,
};
// A token is renewed this long before it ends: early, so that a test with a short-lived one need not wait.
const renewalMarginS = (lifetimeS) => lifetimeS * 3 / 4;
const pollIntervalS = 0.1;

const clients = new Map();

class Device {
  constructor(name, transport, sdk, options) {
    Object.assign(this, { name, transport, sdk, options, methodResponses: new Map() });
    sdk.on('disconnect', () => this.tell('disconnected'));
    sdk.on('error', complain);
  }

  static async make(name, {
    transport, module, connectionString, token, certificate, modelId, tokenLifetimeS, returns, environment,
  }) {
    const Kind = module ? ModuleClient : Client;
    const Transport = hubTransports[transport]();
    let sdk;
    if (environment.IOTEDGE_MODULEID) {
      sdk = await fromEnvironment(environment, Transport);
    } else if (token) {
      sdk = Kind.fromSharedAccessSignature(token, Transport);
    } else if (certificate) {
      sdk = Kind.fromConnectionString(connectionString, Transport);
    } else {
      const keys = SharedAccessKeyAuthenticationProvider.fromConnectionString(
        connectionString, tokenLifetimeS, renewalMarginS(tokenLifetimeS));
      sdk = Kind.fromAuthenticationProvider(keys, Transport);
    }
    if (!returns) sdk.setRetryPolicy(new NoRetry());
    return new Device(name, transport, sdk, { ...certificate, ...(modelId && { modelId }) });
  }

  tell(event, fields) {
    write({ client: this.name, event, ...fields });
  }

  async connect() {
    if (Object.keys(this.options).length > 0) {
      const set = this.sdk.setOptions(this.options);
      if (this.transport !== 'http') await set; // over HTTP it never says that it is done
    }
    await this.sdk.open();
  }

  async send({ message }) {
    await this.sdk.sendEvent(toSdk(message));
  }

  async sendBatch({ messages }) {
    await this.sdk.sendEventBatch(messages.map(toSdk));
  }

  async sendOutput({ output, message }) {
    await this.sdk.sendOutputEvent(output, toSdk(message));
  }

  async commands({ ending }) {
    if (this.transport === 'http') await this.sdk.setTransportOptions({ interval: pollIntervalS });
    this.sdk.on('message', (message) => {
      this.tell('command', { message: fromSdk(message) });
      this.sdk[ending](message, complain);
    });
  }

  async twin() {
    const { desired, reported } = (await this.sdk.getTwin()).properties;
    return { desired, reported };
  }

  async report({ patch }) {
    const twin = await this.sdk.getTwin();
    await new Promise((resolve, reject) =>
      twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve())));
  }

  async desiredPatches() {
    const twin = await this.sdk.getTwin();
    // The event also comes with the whole section, once at the start and with each twin that is asked for.
    twin.on('properties.desired', (patch) => patch !== twin.properties.desired && this.tell('patch', { patch }));
    await new Promise(setImmediate); // that is the start
    await this.sdk.getTwin(); // answered after the subscription, which is not told of
  }

  async answerMethods({ names }) {
    const listen = (this.sdk.onDeviceMethod || this.sdk.onMethod).bind(this.sdk);
    for (const name of names) {
      listen(name, (request, response) => {
        this.methodResponses.set(request.requestId, response);
        this.tell('method', { request: request.requestId, name: request.methodName, payload: request.payload });
      });
    }
  }

  async answer({ request, status, payload }) {
    await this.methodResponses.get(request).send(status, payload);
    this.methodResponses.delete(request);
  }

  async inputs() {
    this.sdk.on('inputMessage', (input, message) => {
      this.tell('input', { input, message: fromSdk(message) });
      this.sdk.complete(message, complain);
    });
  }

  async call({ device, module, name, payload }) {
    const { status, payload: answer } = await this.sdk.invokeMethod(
      device, module, { methodName: name, payload, responseTimeoutInSeconds: 10 });
    return { status, payload: answer };
  }

  async upload({ name, body }) {
    const content = Buffer.from(body, 'base64');
    await this.sdk.uploadToBlob(name, Readable.from(content), content.length);
  }

  async close() {
    clients.delete(this.name);
    await this.sdk.close();
  }
}

// The SDK reads the environment before it first waits.
function fromEnvironment(environment, Transport) {
  const before = { ...process.env };
  Object.assign(process.env, environment);
  try {
    return ModuleClient.fromEnvironment(Transport);
  } finally {
    for (const name of Object.keys(environment)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

async function register({ transport, address, idScope, registrationId, key, certificate, payload }) {
  const proof = certificate
    ? new X509Security(registrationId, certificate)
    : new SymmetricKeySecurityClient(registrationId, key);
  const Transport = provisioningTransports[transport]();
  const registration = ProvisioningDeviceClient.create(address, idScope, new Transport(), proof);
  if (payload !== null) registration.setProvisioningPayload(payload);
  return registration.register();
}

function toSdk({ body, properties, system }) {
  const message = new Message(Buffer.from(body, 'base64'));
  for (const [key, value] of Object.entries(properties)) message.properties.add(key, value);
  return Object.assign(message, system);
}

function fromSdk(message) {
  const { messageId, correlationId, userId, contentType, contentEncoding } = message;
  return {
    body: Buffer.from(message.getBytes()).toString('base64'),
    properties: Object.fromEntries(message.properties.propertyList.map(({ key, value }) => [key, value])),
    system: { messageId, correlationId, userId, contentType, contentEncoding },
  };
}

// To the test's captured output: the test itself sees what the client does not do.
function complain(error) {
  if (error) console.error(String(error));
}

function write(object) {
  process.stdout.write(`${JSON.stringify(object)}\n`);
}

async function obey({ id, client, do: what, ...fields }) {
  try {
    let result;
    if (what === 'register') result = await register(fields);
    else if (what === 'make') clients.set(client, await Device.make(client, fields));
    else result = await clients.get(client)[what](fields);
    write({ id, result: result === undefined ? null : result });
  } catch (error) {
    write({ id, error: { name: error.name, message: error.message } });
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => obey(JSON.parse(line)))
  .on('close', () => process.exit());
require('tls').createSecureContext(); // has Node read the authority's file now
write({});
