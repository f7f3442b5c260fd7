import { Time } from '@jupyterlab/coreutils';

const UNITS = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'];

/**
 * A number of bytes for people: `52 MB`.
 *
 * @param locale As in BCP 47; the browser's by default.
 */
export function formatBytes(bytes: number, locale?: string): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return new Intl.NumberFormat(locale, {
    style: 'unit',
    unit: UNITS[unit],
    unitDisplay: unit === 0 ? 'long' : 'short',
    maximumFractionDigits: value < 10 && unit > 0 ? 1 : 0
  }).format(value);
}

/**
 * A duration for people: `12 ms`, `1.4 s`.
 */
export function formatDuration(ms: number, locale?: string): string {
  const isLong = ms >= 999.5;
  return new Intl.NumberFormat(locale, {
    style: 'unit',
    unit: isLong ? 'second' : 'millisecond',
    unitDisplay: 'short',
    maximumFractionDigits: isLong ? 1 : 0
  }).format(isLong ? ms / 1000 : ms);
}

/**
 * How long ago that was: `3 minutes ago`.
 */
export function formatAge(created: string): string {
  // A clock that is ahead of ours does not make snapshots of the future.
  const date = Math.min(Date.parse(created), Date.now());
  return Time.formatHuman(new Date(date));
}

/**
 * When that was, to the second, in local time.
 */
export function formatTime(created: string, locale?: string): string {
  return new Intl.DateTimeFormat(locale, {
    dateStyle: 'medium',
    timeStyle: 'medium'
  }).format(new Date(created));
}

/**
 * The end of a path.
 */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/**
 * A path without the ending of notebooks.
 */
export function stemOf(path: string): string {
  return path.replace(/\.ipynb$/, '');
}

/**
 * A name and the number after the highest there is: `model-3` after `model-1` and
 * `model-2`.
 */
export function nextName(stem: string, names: Iterable<string>): string {
  let highest = 0;
  for (const name of names) {
    const number = name.slice(stem.length + 1);
    if (name.startsWith(`${stem}-`) && /^\d{1,9}$/.test(number)) {
      highest = Math.max(highest, Number(number));
    }
  }
  return `${stem}-${highest + 1}`;
}

/**
 * What somebody has called a snapshot, and the date and time that the server has added
 * where it made up the name.
 */
export function splitStamp(name: string): [string, string] {
  const stamp = /(?<=.)-\d{8}-\d{6}(-\d+)?$/.exec(name)?.[0] ?? '';
  return [name.slice(0, name.length - stamp.length), stamp];
}
