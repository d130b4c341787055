// What a deno task is started by: `deno run shim.ts <url of the task>`. Its `main` gets params, input, output, kv, env, mcp, dicode.

// deno-lint-ignore-file no-explicit-any
declare const Deno: any;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

class Session {
  #connection: any = null;
  #turn: Promise<unknown> = Promise.resolve();

  call(method: string, args: Record<string, unknown> = {}): Promise<any> {
    const answer = this.#turn.then(() => this.#ask(method, args));
    this.#turn = answer.catch(() => {}); // the next question waits for this one, however it ended
    return answer;
  }

  async #ask(method: string, args: Record<string, unknown>): Promise<any> {
    if (this.#connection === null) {
      this.#connection = await Deno.connect({ transport: "unix", path: Deno.env.get("DICODE_SOCKET") });
      await this.#exchange({ token: Deno.env.get("DICODE_TOKEN") });
    }
    return (await this.#exchange({ method, args })).result ?? null;
  }

  async #exchange(message: unknown): Promise<any> {
    const body = encoder.encode(JSON.stringify(message));
    const frame = new Uint8Array(4 + body.length);
    new DataView(frame.buffer).setUint32(0, body.length, true);
    frame.set(body, 4);
    for (let sent = 0; sent < frame.length;) sent += await this.#connection.write(frame.subarray(sent));
    const length = new DataView((await this.#exactly(4)).buffer).getUint32(0, true);
    const reply = JSON.parse(decoder.decode(await this.#exactly(length)));
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply;
  }

  async #exactly(count: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(count);
    for (let got = 0; got < count;) {
      const part = await this.#connection.read(bytes.subarray(got));
      if (part === null) throw new Error("dicode closed the connection");
      got += part;
    }
    return bytes;
  }

  close() {
    this.#connection?.close();
    this.#connection = null;
  }
}

function base64(content: string | Uint8Array): string {
  const bytes = typeof content === "string" ? encoder.encode(content) : content;
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

function remote(prefix: string, fields: Record<string, unknown>): any {
  return new Proxy(fields, {
    get: (known, name: string) =>
      name in known || typeof name !== "string" ? known[name] : (...args: unknown[]) => session.call(`${prefix}.${name}`, { args }),
  });
}

const session = new Session();
const daemon = Deno.env.get("DICODE_SOCKET") === undefined; // nobody to talk to: its params are in its environment
const values = daemon ? JSON.parse(Deno.env.get("DICODE_PARAMS") ?? "{}") : await session.call("params");
const input = daemon ? null : await session.call("input");
const set = (content_type: string, content: string | Uint8Array, data?: unknown) =>
  session.call("output", { content_type, content: base64(content), ...(data === undefined ? {} : { data }) });
const context = {
  params: { get: (name: string) => values[name], all: () => ({ ...values }) },
  input,
  env: { get: (name: string) => Deno.env.get(name) },
  output: {
    html: (content: string, data?: unknown) => set("text/html; charset=utf-8", content, data),
    text: (content: string, data?: unknown) => set("text/plain; charset=utf-8", content, data),
    image: (content: string | Uint8Array, type = "image/png", data?: unknown) =>
      set(type, typeof content === "string" ? Uint8Array.from(atob(content), (c) => c.charCodeAt(0)) : content, data),
    file: (content: string | Uint8Array, type = "application/octet-stream", data?: unknown) => set(type, content, data),
  },
  kv: {
    get: (key: string) => session.call("kv.get", { key }),
    set: (key: string, value: unknown) => session.call("kv.set", { key, value }),
    delete: (key: string) => session.call("kv.delete", { key }),
    list: (prefix = "") => session.call("kv.list", { prefix }),
  },
  mcp: remote("mcp", {}),
  dicode: remote("dicode", { task_id: Deno.env.get("DICODE_TASK_ID"), run_id: Deno.env.get("DICODE_RUN_ID") }),
};

const task = await import(Deno.args[0]);
if (typeof task.default === "function") {
  const value = await task.default(context);
  if (value !== undefined && value !== null && !daemon) await session.call("return", { value: JSON.stringify(value) ?? "null" });
}
session.close();
