import { number } from "./dom.js";

// whyLower explains why fewer requests succeed with Hopbound than with gRPC's own retries. It returns "" if that is
// not so.
export function whyLower(now) {
  const { native, hopbound } = now.stacks;
  if (!native || !hopbound || native.success - hopbound.success < 0.005) return "";
  const rate = (decision) => hopbound.hops.reduce((sum, h) => sum + (h.decisions[decision] ?? 0), 0);
  const unpaid = Math.round(rate("budget_empty") * now.window);
  if (now.fault === "down") {
    return `Every request fails in both chains, but Hopbound’s requests fail sooner: within ${number(hopbound.p99)} ms, instead of up to ${number(native.p99)} ms. ` +
      "A request counts when it ends, so the latest failures with gRPC’s own retries do not count yet.";
  }
  if (unpaid > 0 && native.amplification > 2 * hopbound.amplification) {
    return `Hopbound did not retry ${unpaid} failures of the last ${now.window} seconds, because no success had filled the bucket of the target budget. ` +
      `With gRPC’s own retries, requests that were still retrying when the leaf recovered have succeeded, at ${number(native.amplification)} leaf calls per request.`;
  }
  if (unpaid > 0) {
    return `Hopbound did not retry ${unpaid} failures of the last ${now.window} seconds, because a budget had no token. ` +
      "Five successes of the leaf earn one token. After an outage, or after several failures in a row, the bucket takes one or two seconds to fill.";
  }
  if (rate("deadline") > 0) {
    return `This difference is chance. Each chain draws its own delays, and the share is of about ${Math.round(hopbound.rate * now.window)} requests. No retry can help, because users wait no longer than ${now.timeout} s.`;
  }
  return `This difference is chance. Each chain draws its own failures, and the share is of about ${Math.round(hopbound.rate * now.window)} requests.`;
}
