// What the page knows of its service (PageFacts in pages.py), written into the page when it is served.

export const facts = JSON.parse(document.documentElement.dataset.facts);
