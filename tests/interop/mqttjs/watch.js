// A viewer and an operator in mqtt.js, over WebSocket as a browser would: what they see, and what the broker lets them do.
//
//     node watch.js ws://HOST:PORT ROOT
//
// Prints one JSON object: what was seen, and what became of every command.
"use strict";
const path = require("path");
const mqtt = require(path.join(process.env.MQTTJS, "node_modules", "mqtt"));
const [url, root] = process.argv.slice(2);
const SECONDS = 1000;

function connect(user, password = `${user}-password`) {
  return mqtt.connectAsync(url, { username: user, password, connectTimeout: 10 * SECONDS, reconnectPeriod: 0 });
}

/** Collect messages below the root; `until` returns once the condition on them holds, or throws after 10 s. */
function collect(client) {
  const seen = new Map();
  const waiting = new Set();
  client.on("message", (topic, payload, packet) => {
    seen.set(topic.slice(root.length + 1), { payload, retain: packet.retain });
    for (const look of waiting) look();
  });
  const until = (holds, what) =>
    new Promise((resolve, reject) => {
      const give_up = setTimeout(() => reject(new Error(`${what} did not come`)), 10 * SECONDS);
      const look = () => {
        if (!holds(seen)) return;
        clearTimeout(give_up);
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      look();
    });
  return { seen, until };
}

function command(fields = {}) {
  const id = `mqttjs-${Math.random().toString(36).slice(2, 12)}`;
  return { id, issued_at: new Date().toISOString(), by: "mqtt.js", ...fields };
}

async function main() {
  const viewer = await connect("viewer");
  const view = collect(viewer);
  await viewer.subscribeAsync(`${root}/#`, { qos: 1 });
  await view.until((seen) => seen.has("state") && seen.has("availability"), "the agent's state");
  const told = JSON.parse(view.seen.get("state").payload);

  const operator = await connect("operator");
  const desk = collect(operator);
  await operator.subscribeAsync(`${root}/#`, { qos: 1 });

  // What a viewer publishes goes nowhere, whether a command or a message in the agent's name.
  const forged = command();
  await viewer.publishAsync(`${root}/command/pause`, JSON.stringify(forged), { qos: 1 });
  await viewer.publishAsync(`${root}/state`, JSON.stringify({ ...told, phase: "forged" }), { qos: 1, retain: true });
  // An operator may command, but not speak in the agent's name.
  await operator.publishAsync(`${root}/dose`, "{}", { qos: 1, retain: true });

  const replies = {};
  const asked = [
    ["pause", command()],
    ["edit", command({ trial: 3, dose: 1e9, region: "all" })],
    ["approve", command({ issued_at: "2020-01-01T00:00:00Z" })],
    ["unblank", command()],
  ];
  for (const [verb, told] of asked) {
    await operator.publishAsync(`${root}/command/${verb}`, JSON.stringify(told), { qos: 1 });
    await desk.until((seen) => seen.has(`reply/${told.id}`), `the answer to ${verb}`);
    replies[verb] = JSON.parse(desk.seen.get(`reply/${told.id}`).payload).code;
  }

  let stranger = "let in";
  await connect("nobody", "guess").catch((error) => (stranger = error.message));
  const png = view.seen.get("image/phase");
  console.log(
    JSON.stringify({
      availability: String(view.seen.get("availability").payload),
      retained: view.seen.get("state").retain,
      phase: JSON.parse(desk.seen.get("state").payload).phase,
      dose: JSON.parse(desk.seen.get("dose").payload).budget,
      picture: png !== undefined && png.payload.subarray(1, 4).toString() === "PNG",
      answered_viewer: desk.seen.has(`reply/${forged.id}`),
      replies,
      stranger,
    }),
  );
  await Promise.all([viewer.endAsync(), operator.endAsync()]);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
