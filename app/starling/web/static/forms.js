// What the forms of both tabs share: submission, complaints at a field, sizes in bytes, and countdowns.

export function onSubmit(form, act) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

// Shows `sentence` at the field until it changes.
export function complain(field, sentence) {
  field.setCustomValidity(sentence);
  field.reportValidity();
  field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
}

export function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

export function describeBytesLeft(left) {
  const size = `${Math.abs(left).toLocaleString("en")} ${Math.abs(left) === 1 ? "byte" : "bytes"}`;
  return left < 0 ? `${size} over the limit` : `${size} left`;
}

// Counts down in `element`, once a second.
export class Countdown {
  #element;
  #timer = null;

  constructor(element) {
    this.#element = element;
  }

  // Shows `words` and the seconds for `milliseconds`, then calls `act`.
  start(milliseconds, words, act) {
    this.stop();
    const end = performance.now() + milliseconds;
    const step = () => {
      const left = end - performance.now();
      if (left <= 0) {
        this.stop();
        act();
        return;
      }
      this.#element.textContent = `${words} ${Math.ceil(left / 1000)} s`;
      this.#timer = setTimeout(step, left % 1000 || 1000);
    };
    step();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#element.textContent = "";
  }
}
