// The console's frame: log-in, navigation by the address's fragment, and the view that it names.

import { render } from "./vendor-preact-htm.js";
import { Channels } from "./channels.js";
import { html, post, Problem, useEffect, useState } from "./client.js";
import { Connections } from "./connections.js";
import { Live } from "./live.js";
import { Overview } from "./overview.js";
import { Settings, Token } from "./settings.js";

const VIEWS = {
  overview: ["Overview", Overview],
  channels: ["Channels", Channels],
  connections: ["Users and connections", Connections],
  live: ["Live", Live],
  token: ["Token", Token],
  settings: ["Limits and settings", Settings],
};

function place() {
  const [view, name = ""] = location.hash.slice(1).split("/");
  return { view: VIEWS[view] ? view : "overview", name: decodeURIComponent(name) };
}

function LogIn({ onDone }) {
  const [problem, setProblem] = useState("");
  const enter = async (event) => {
    event.preventDefault();
    try {
      onDone(await post("log_in", { password: new FormData(event.target).get("password") }));
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<main>
    <h1>Starling console</h1>
    <form onSubmit=${enter}>
      <label>Password <input name="password" type="password" autocomplete="current-password" required /></label>
      <button>Log in</button>
    </form>
    <${Problem} text=${problem} />
  </main>`;
}

function Console() {
  const [user, setUser] = useState(undefined);
  const [problem, setProblem] = useState("");
  const [at, setAt] = useState(place());
  useEffect(() => {
    const move = () => setAt(place());
    addEventListener("hashchange", move);
    post("me").then(setUser, (error) => setProblem(error.message));
    return () => removeEventListener("hashchange", move);
  }, []);
  if (user === undefined) return html`<main><${Problem} text=${problem} /></main>`;
  if (user === null) return html`<${LogIn} onDone=${setUser} />`;
  const [title, View] = VIEWS[at.view];
  document.title = `${title} · Starling console`;
  const leave = () => post("log_out").then(() => setUser(null));
  return html`
    <header>
      <nav aria-label="Views">
        <ul>
          ${Object.entries(VIEWS).map(
            ([name, [text]]) => html`<li><a href=${`#${name}`} aria-current=${at.view === name ? "page" : null}>${text}</a></li>`,
          )}
        </ul>
        <ul>
          <li>${user.name}${user.role === "reader" ? ", reads only" : ""}</li>
          <li><a href="#overview" onClick=${leave}>Log out</a></li>
        </ul>
      </nav>
    </header>
    <main><${View} key=${`${at.view}/${at.name}`} name=${at.name} writes=${user.role === "operator"} /></main>
  `;
}

render(html`<${Console} />`, document.body);
