// Numbers as people read them.

/** A count, with the separators of the reader's language. */
export function count(number) {
  return number.toLocaleString();
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Microseconds, with three digits. */
export function micros(value) {
  const [scaled, unit] = value < 1e3 ? [value, "µs"] : value < 1e6 ? [value / 1e3, "ms"] : [value / 1e6, "s"];
  return `${Number(scaled.toPrecision(3))} ${unit}`;
}

/** Seconds, in the two largest units. */
export function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([, size]) => rest >= size);
  if (first < 0) return "0 s";
  const parts = units.slice(first, first + 2).map(([unit, size]) => {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    return whole > 0 ? `${whole} ${unit}` : "";
  });
  return parts.filter(Boolean).join(" ");
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (number >= 1024 && at < units.length - 1) {
    number /= 1024;
    at += 1;
  }
  return `${at === 0 ? number : number.toFixed(number < 10 ? 1 : 0)} ${units[at]}`;
}

/** A point in time: RFC 3339 text or Unix seconds, as the reader's clock shows it. */
export function time(at) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  return Number.isNaN(date.valueOf()) ? String(at ?? "") : date.toLocaleString();
}
