import { digestOf } from "./digest.ts";

export default async function main({ params, env }: { params: any; env: any }) {
  const answer = await fetch(params.get("feed"));
  if (!answer.ok) throw new Error(`${params.get("feed")} answered ${answer.status}`);
  const text = digestOf(await answer.text());

  const url = env.get("SLACK_WEBHOOK_URL");
  if (!url || String(params.get("dry_run")) === "true") {
    console.log(text);
    return { posted: false };
  }
  const posted = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }) });
  if (!posted.ok) throw new Error(`Slack answered ${posted.status}`);
  return { posted: true };
}
