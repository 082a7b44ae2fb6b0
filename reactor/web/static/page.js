// Updates the live page. Each event contains sections by id, which the server has rendered and escaped. Without this
// script, the page does not update.
"use strict";
(() => {
  const address = document.body.dataset.live;
  if (!address) return;
  const SILENCE_MS = 12000; // the server sends a keepalive after 5 s without changes
  const RETRY_MS = 3000;
  const banner = document.getElementById("connection");
  let source = null;
  let receivedAt = Date.now();
  let lostSince = null;

  function showLost() {
    if (lostSince !== null) return;
    lostSince = new Date(receivedAt);
    banner.textContent = `Connection lost since ${lostSince.toLocaleTimeString()}: the figures are from then. Reconnecting.`;
    banner.hidden = false;
    document.body.classList.add("lost");
  }

  function showConnected() {
    receivedAt = Date.now();
    if (lostSince === null) return;
    lostSince = null;
    banner.hidden = true;
    banner.textContent = "";
    document.body.classList.remove("lost");
  }

  function replace(section, html) {
    // keep the keyboard focus on the same link
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

  // screen readers read the announcement when it changes, so only a new headline may change it
  function announce() {
    const announcement = document.getElementById("announcement");
    const headline = document.querySelector("#state h1").textContent;
    if (announcement.textContent !== headline) announcement.textContent = headline;
  }

  function connect() {
    source = new EventSource(address);
    source.addEventListener("panels", (event) => {
      showConnected();
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        const section = document.getElementById(id);
        if (section) replace(section, html);
      }
      announce();
    });
    source.addEventListener("keepalive", showConnected);
    source.addEventListener("error", () => {
      showLost();
      // browsers do not reconnect after a response that is not an event stream
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
    });
  }

  setInterval(() => {
    if (Date.now() - receivedAt > SILENCE_MS && source.readyState === EventSource.OPEN) {
      showLost();
      source.close();
      connect();
    }
  }, RETRY_MS);
  addEventListener("pagehide", () => source.close());
  connect();
})();
