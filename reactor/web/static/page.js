// Makes the page live: each event brings sections by id, as the server has drawn and escaped them. Without this the page
// can be read all the same.
"use strict";
(() => {
  const address = document.body.dataset.live;
  if (!address) return;
  const SILENCE_MS = 12000; // two beats and a half
  const AGAIN_MS = 3000;
  const banner = document.getElementById("connection");
  let source = null;
  let heardAt = Date.now();
  let lostSince = null;

  function lose() {
    if (lostSince !== null) return;
    lostSince = new Date(heardAt);
    banner.textContent = `Connection lost since ${lostSince.toLocaleTimeString()}: what is shown is as old. Trying again.`;
    banner.hidden = false;
    document.body.classList.add("lost");
  }

  function hear() {
    heardAt = Date.now();
    if (lostSince === null) return;
    lostSince = null;
    banner.hidden = true;
    banner.textContent = "";
    document.body.classList.remove("lost");
  }

  function put(section, html) {
    // whoever is on a link with the keyboard stays on it
    const focused = section.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    section.innerHTML = html;
    if (focused) {
      for (const link of section.querySelectorAll("a")) {
        if (link.getAttribute("href") === focused) {
          link.focus({ preventScroll: true });
          break;
        }
      }
    }
  }

  // read out when it changes, and not with every second that goes by
  function say() {
    const said = document.getElementById("said");
    const headline = document.querySelector("#state h1").textContent;
    if (said.textContent !== headline) said.textContent = headline;
  }

  function connect() {
    source = new EventSource(address);
    source.addEventListener("panels", (event) => {
      hear();
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        const section = document.getElementById(id);
        if (section) put(section, html);
      }
      say();
    });
    source.addEventListener("beat", hear);
    source.addEventListener("error", () => {
      lose();
      // a browser gives up for good on an answer that isn't a stream
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
    });
  }

  setInterval(() => {
    if (Date.now() - heardAt > SILENCE_MS && source.readyState === EventSource.OPEN) {
      lose();
      source.close();
      connect();
    }
  }, AGAIN_MS);
  addEventListener("pagehide", () => source.close());
  connect();
})();
