// What curves are drawn from: points by step, time or the clock on the wall, smoothed, and written short.

/** @typedef {{run: string, steps: number[], values: number[], at: number[]}} Line */
/** @typedef {"step" | "time" | "wall"} Along */

/** Where a line's points lie: steps, seconds since its run began, or seconds since 1970. @param {Line} line @param {Along} along @param {number} began */
export function places({ steps, at }, along, began) {
  if (along === "step") return steps;
  return at.map((moment) => (along === "time" ? moment - began : moment) / 1000);
}

// An exponential moving average without the pull towards its beginning, as TensorBoard has it.
/** @param {number[]} values @param {number} weight 0 to below 1 */
export function smooth(values, weight) {
  let last = 0;
  return values.map((value, at) => {
    last = last * weight + (1 - weight) * value;
    return last / (1 - weight ** (at + 1));
  });
}

// The points of one line in the order of x, which a clock that was set back may have disturbed.
/** @param {number[]} xs @param {number[]} ys @returns {[number[], number[]]} */
export function ordered(xs, ys) {
  if (xs.every((x, at) => at === 0 || xs[at - 1] <= x)) return [xs, ys];
  const order = xs.map((_, at) => at).sort((a, b) => xs[a] - xs[b]);
  return [order.map((at) => xs[at]), order.map((at) => ys[at])];
}

/** @param {number | null} value */
export function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
}

/** Seconds as a length of time. @param {number | null} seconds */
export function length(seconds) {
  if (seconds == null) return "–";
  const size = Math.abs(seconds);
  if (size < 60) return `${short(seconds)} s`;
  const [unit, worth] = size < 3600 ? ["min", 60] : size < 172800 ? ["h", 3600] : ["d", 86400];
  return `${short(seconds / worth)} ${unit}`;
}

// A date whose parts are those on the viewer's clock, as uPlot wants it; where time is replayed those of UTC, as in the banner.
export function clock(stamp) {
  const at = new Date(stamp * 1000);
  return "replay" in document.body.dataset ? window.uPlot.tzDate(at, "UTC") : at;
}

// How moments stand at an axis (uPlot's templates): by 24 hours, the date under the first one, and where it changes the day, which
// has room beside it.
const DAY = 86400;
const date = "\n{YYYY}-{MM}-{DD}";
const each = (length, form, year, day) => [length, form, year, null, day, null, null, null, 1];
export const MOMENTS = [
  each(365 * DAY, "{YYYY}", null, null),
  each(28 * DAY, "{MMM}", "\n{YYYY}", null),
  each(DAY, "{D} {MMM}", "\n{YYYY}", null),
  each(60, "{HH}:{mm}", date, "\n{D} {MMM}"),
  each(1, "{HH}:{mm}:{ss}", date, "\n{D} {MMM}"),
];

/** @param {number | null} stamp Seconds since 1970. */
export function moment(stamp) {
  return stamp == null ? "–" : `${new Date(stamp * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
