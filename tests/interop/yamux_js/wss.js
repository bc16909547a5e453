// A visitor of a WebSocket behind TLS: node wss.js PORT NAME CA. Sends messages of many sizes,
// expects each back, closes, and prints what it saw as JSON.
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [port, name, ca] = process.argv.slice(2);
const sizes = [0, 1, 125, 126, 65535, 65536, 1 << 20, 8 << 20];
const digest = (data) => createHash("sha256").update(data).digest("hex");
const sent = sizes.map((size) => randomBytes(size));
let echoed = 0;

const socket = new WebSocket(`wss://127.0.0.1:${port}/`, {
  ca: readFileSync(ca),
  servername: name,
  headers: { Host: name },
});
socket.on("open", () => sent.forEach((data) => socket.send(data)));
socket.on("message", (data) => {
  if (digest(data) !== digest(sent[echoed])) throw new Error(`message ${echoed} is another`);
  echoed += 1;
  if (echoed === sent.length) socket.close(1000, "done");
});
socket.on("error", (error) => {
  console.log(JSON.stringify({ error: error.message }));
  process.exit(1);
});
socket.on("close", (code, reason) => {
  console.log(JSON.stringify({ echoed, code, reason: reason.toString() }));
});
