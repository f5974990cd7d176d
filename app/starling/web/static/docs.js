// Shows openapi.json; a key that was entered stays until the page is left.

// Swagger UI has dark colours for this class; the reader's system decides.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Makes the page's structure clear to screen readers.
const structure = ({ React }) => ({
  components: {
    // The name of a method is inside a button, where a link may not be. The button changes the address too.
    DeepLink: ({ text }) => React.createElement("span", null, text),
  },
  wrapComponents: {
    // The title is of level 1, the groups of methods are of level 3.
    operations: (Operations) => (properties) =>
      React.createElement(
        React.Fragment,
        null,
        React.createElement("h2", { className: "methods" }, "Methods"),
        React.createElement(Operations, properties),
      ),
    TextArea: (TextArea) => (properties) =>
      React.createElement(TextArea, { "aria-label": "Request body", ...properties }),
  },
});

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  plugins: [structure],
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});

// Controls that Swagger UI leaves without a name, wherever it draws one.
const NAMES = { ".copy-to-clipboard button": "Copy", ".examples-select-element": "Example" };
new MutationObserver(() => {
  for (const [selector, name] of Object.entries(NAMES)) {
    for (const control of document.querySelectorAll(`${selector}:not([aria-label])`)) control.ariaLabel = name;
  }
}).observe(document.querySelector("#api"), { childList: true, subtree: true });
