// The SDK's client, which also reports how long it waits before each attempt to connect.

// `waiting` is called with the milliseconds until the next attempt. The SDK has no event for them, so this overrides
// the method that chooses them, in the version that is vendored here.
export function backoffClient(address, options, waiting) {
  class BackoffClient extends globalThis.Centrifuge {
    _getReconnectDelay() {
      const delay = super._getReconnectDelay();
      waiting(delay);
      return delay;
    }
  }
  return new BackoffClient(address, { minReconnectDelay: 1000, ...options });
}
