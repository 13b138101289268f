// Kept for whoever still calls it: the extension carries a built wheel, never Python source.
console.error("copy-python-server.js copies nothing any more: run `npm run bundle-python`, which builds the server's wheel into python_server/.");
process.exitCode = 1;
