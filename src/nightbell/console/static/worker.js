// One stream per browser, not per tab: HTTP/1.1 gives six connections, and an abort must not wait for a free one.
const ports = new Set();
let source = null;

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function open() {
  source = new EventSource("/live");
  for (const kind of ["ping", "tile", "log", "resync"]) {
    source.addEventListener(kind, (event) => tell({ kind, data: JSON.parse(event.data) }));
  }
  source.onerror = () => {
    tell({ kind: "broken" });
    // The browser tries again by itself, with the last id; after a refusal it does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => source.readyState === EventSource.CLOSED && open(), 3000);
  };
}

self.onconnect = (event) => {
  const port = event.ports[0];
  ports.add(port);
  port.onmessage = (message) => {
    if (message.data === "bye") ports.delete(port);
    if (ports.size === 0 && source) {
      source.close();
      source = null;
    }
  };
  port.start();
  if (!source || source.readyState === EventSource.CLOSED) open();
};
