// Figures as a person reads them: three digits, units of 1024, and a dash for what is not known.

const UNKNOWN = "–";
const WHOLE = new Intl.NumberFormat("en");

/** How often something happens in a second: "0", "0.42", "12.3", "1,234". */
export function rate(number) {
  if (number === null || number === undefined) return UNKNOWN;
  if (number === 0) return "0";
  if (number < 0.0995) return number.toFixed(2);
  if (number < 99.95) return number.toFixed(1);
  return WHOLE.format(Math.round(number));
}

/** A whole number. */
export function count(number) {
  return number === null || number === undefined ? UNKNOWN : WHOLE.format(number);
}

/** Bytes: "512 B", "1.5 KiB", "20 MiB". */
export function bytes(number) {
  if (number === null || number === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (number >= 1023.5 && place < units.length - 1) {
    number /= 1024;
    place += 1;
  }
  return `${place === 0 || number >= 9.95 ? Math.round(number) : number.toFixed(1)} ${units[place]}`;
}

/** How long something has lasted: "8s", "4m10s", "3h", "2d". */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 120) return `${whole}s`;
  if (whole < 600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, "0")}s`;
  if (whole < 10800) return `${Math.floor(whole / 60)}m`;
  if (whole < 172800) return `${Math.floor(whole / 3600)}h`;
  return `${Math.floor(whole / 86400)}d`;
}

/** A short time: "85 µs", "1.25 ms", "340 ms", "2.50 s". */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 0.0009995) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${three(seconds * 1000)} ms`;
  return seconds < 100 ? `${three(seconds)} s` : age(seconds);
}

function three(number) {
  return number.toFixed(number < 9.995 ? 2 : number < 99.95 ? 1 : 0);
}

/** The time of day of a Unix time. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** The time of day of an RFC 3339 text, to the millisecond. */
export function moment(text) {
  const date = new Date(text);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** "1 client", "3 clients". */
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
