import { digestOf } from "./digest.ts";

export default async function main({ params, env }: { params: any; env: any }) {
  const text = digestOf(await read(params.get("feed")));
  if (String(params.get("dry_run")) === "true") {
    console.log(text);
    return { posted: false };
  }
  const posted = await fetch(env.get("SLACK_WEBHOOK_URL"), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }) });
  if (!posted.ok) throw new Error(`Slack answered ${posted.status}`);
  return { posted: true };
}

async function read(feed: string): Promise<string> {
  if (!feed.includes("://")) return await Deno.readTextFile(feed);
  const answer = await fetch(feed);
  if (!answer.ok) throw new Error(`${feed} answered ${answer.status}`);
  return await answer.text();
}
