// A module on the SDK for Node: what comes to its input goes to its output, marked. Method `twin` answers with its twin,
// `call` with what a method of another module answers.
'use strict';

const { ModuleClient, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

async function main() {
  const client = await ModuleClient.fromEnvironment(Mqtt);
  client.onMethod('twin', async (request, response) => {
    const twin = await client.getTwin();
    await new Promise((resolve, reject) =>
      twin.properties.reported.update({ node: true }, (error) => (error ? reject(error) : resolve())),
    );
    await response.send(200, twin.properties.desired);
  });
  client.onMethod('call', async (request, response) => {
    const { device, module: moduleId, name } = request.payload;
    const within = { connectTimeoutInSeconds: 5, responseTimeoutInSeconds: 10 };
    const parameters = { methodName: name, payload: { from: 'node' }, ...within };
    await response.send(200, await client.invokeMethod(device, moduleId, parameters));
  });
  client.on('inputMessage', (input, received) => {
    const message = new Message(received.getData());
    message.messageId = received.messageId;
    message.properties.add('input', input);
    client.sendOutputEvent('relayed', message, (error) => {
      if (error) throw error;
    });
  });
  await client.open();
  console.log('<6> 2026-05-01 12:00:00.000 +00:00 [INF] - relaying module is up');
}

main().catch((error) => {
  console.error(`<3> ${error.stack}`);
  process.exit(1);
});
