// Each code block has a landmark with its buttons, which the theme draws without a name.
const nameLandmarks = () => {
  document.querySelectorAll("nav.md-code__nav").forEach((nav, index) => {
    const name = `Code block ${index + 1}`;
    if (nav.ariaLabel !== name) nav.ariaLabel = name;
  });
};
new MutationObserver(nameLandmarks).observe(document.body, { childList: true, subtree: true });
nameLandmarks();
