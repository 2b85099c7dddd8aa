// Logarithmic scales.

/** Powers of ten from at or below the smallest to at or above the largest value. */
export function decades(smallest, largest) {
  const from = Math.floor(Math.log10(Math.max(1, smallest)));
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(1, largest))));
  return Array.from({ length: to - from + 1 }, (_, step) => 10 ** (from + step));
}

/** Maps `low`..`high` in powers to `start`..`end` in pixels. */
export function logarithmic(low, high, start, end) {
  const span = Math.log(high / low);
  return (value) => start + (Math.log(Math.max(value, low) / low) / span) * (end - start);
}
