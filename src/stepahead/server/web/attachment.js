// A file that the user adds: its text becomes part of the message, fenced off under its name.

const MAX_BYTES = 1024 * 1024;

// Raises an Error that says why it cannot be added.
export async function asMessageText(file, isFenced) {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} is larger than 1 MB.`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is no text in UTF-8.`);
  }
  if (text.includes("\0")) throw new Error(`${file.name} is no text.`);
  if (!isFenced) return text;
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  const ending = /\.(\w{1,12})$/.exec(file.name)?.[1] ?? "";
  return `${file.name}:\n${fence}${ending.toLowerCase()}\n${text.replace(/\n$/, "")}\n${fence}\n`;
}
