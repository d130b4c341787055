// Every file of the folder belongs to the task: a change here is a new version of it, too.

export function digestOf(feed: string): string {
  const items = feed.split("<item>").slice(1);
  const lines = items.map((item) => `• <${inside(item, "link")}|${inside(item, "title")}>`);
  return [`*${lines.length} headlines*`, ...lines].join("\n");
}

function inside(item: string, tag: string): string {
  const [, rest = ""] = item.split(`<${tag}>`);
  return rest.split(`</${tag}>`)[0].replace("<![CDATA[", "").replace("]]>", "").trim();
}
