import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { logIn } from "../api";
import { language, t } from "../i18n";
import { Field, Problem, Tabs } from "../ui";

/** Over a page whose session has ended: what was typed there is kept for the same account. */
export function LoginAgain() {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => { element.current?.showModal(); }, []);
  return (
    <dialog ref={element} class="again" aria-label={t("login.title")} onCancel={(e) => { e.preventDefault(); }} onClose={() => { element.current?.showModal(); }}>
      <Login hint={t("login.again")} />
    </dialog>
  );
}

export function Login({ hint = t("login.hint") }: { hint?: string }) {
  const way = useSignal("token");
  const token = useSignal("");
  const accessKey = useSignal("");
  const secretKey = useSignal("");
  const error = useSignal<unknown>(undefined);
  const waiting = useSignal(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (waiting.value) return;
    waiting.value = true;
    try {
      const body = way.value === "token" ? { token: token.value } : { access_key: accessKey.value, secret_key: secretKey.value };
      await logIn(body);
    } catch (failed) {
      error.value = failed;
    } finally {
      waiting.value = false;
    }
  };
  return (
    <div class="login">
      <main class="card" style={{ padding: "1.4rem" }}>
        <div class="row"><h1 style={{ flex: 1 }}>{t("login.title")}</h1>
          <select aria-label={t("set.language")} value={language.value} onChange={(e) => { language.value = e.currentTarget.value === "zh" ? "zh" : "en"; }}>
            <option value="zh">中文</option><option value="en">English</option>
          </select>
        </div>
        <br />
        <Tabs names={[["token", t("login.token")], ["key", t("login.key")]]} chosen={way.value} choose={(name) => { way.value = name; }} />
        <form onSubmit={(e) => void submit(e)}>
          {way.value === "token"
            ? <Field label={t("login.token")}><input type="password" name="token" autocomplete="current-password" required value={token.value} onInput={(e) => { token.value = e.currentTarget.value; }} /></Field>
            : <>
              <Field label={t("login.access_key")}><input name="access_key" autocomplete="username" required value={accessKey.value} onInput={(e) => { accessKey.value = e.currentTarget.value; }} /></Field>
              <Field label={t("login.secret_key")}><input type="password" name="secret_key" autocomplete="current-password" required value={secretKey.value} onInput={(e) => { secretKey.value = e.currentTarget.value; }} /></Field>
            </>}
          <Problem error={error.value} />
          <button class="primary" disabled={waiting.value}>{t("login.submit")}</button>
          <p class="dim small">{hint}</p>
        </form>
      </main>
    </div>
  );
}
