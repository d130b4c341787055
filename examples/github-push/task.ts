type Commit = { message: string; author?: { name?: string } };
type Push = { ref?: string; repository?: { full_name?: string }; commits?: Commit[] };

export default async function main({ params, input }: { params: any; input: Push | null }) {
  const push = input ?? {};
  const branch = (push.ref ?? "").replace("refs/heads/", "");
  if (branch !== params.get("branch")) return { ignored: branch };
  const commits = push.commits ?? [];
  for (const commit of commits) {
    console.log(`${push.repository?.full_name}: ${commit.author?.name ?? "someone"}: ${commit.message.split("\n")[0]}`);
  }
  return { repository: push.repository?.full_name, branch, commits: commits.length };
}
