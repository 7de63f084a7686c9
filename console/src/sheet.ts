// Style sheets of libraries. The page's policy takes style elements only with its nonce.
export const nonce = document.querySelector<HTMLMetaElement>('meta[name="berth-nonce"]')?.content ?? "";

export function addSheet(css: string): void {
  const sheet = document.createElement("style");
  sheet.nonce = nonce;
  sheet.textContent = css;
  document.head.append(sheet);
}
