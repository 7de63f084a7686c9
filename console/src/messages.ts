// The server's own catalogue: a line a sentence, English and Chinese with places for what varies.
import catalogue from "../../crates/berth-types/src/messages.zh.tsv";

export const forms: ReadonlyMap<string, string> = new Map([
  ...catalogue.split("\n").map((line): [string, string] => {
    const [english = "", chinese = ""] = line.split("\t");
    return [english, chinese];
  }).filter(([english]) => english !== ""),
  // A field or a path, and what is wrong with it.
  ["{}: {}", "{}：{*}"],
]);
