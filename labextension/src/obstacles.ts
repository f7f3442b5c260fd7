import type { ICapabilities } from './types';

/** What has to be done, once, about all that stands in the way for the same reason. */
export interface IObstacle {
  advice: string;
  /** Of the capabilities that are missing. */
  names: string[];
  /** What was found of each. */
  details: string[];
}

/** What stands in the way of snapshots, grouped by what to do about it. */
export function obstacles(capabilities: ICapabilities): IObstacle[] {
  const found = new Map<string, IObstacle>();
  for (const item of capabilities.items) {
    if (item.ok || !capabilities.missing.includes(item.name)) {
      continue;
    }
    const advice = item.advice || item.detail;
    const obstacle = found.get(advice) ?? { advice, names: [], details: [] };
    obstacle.names.push(item.name);
    obstacle.details.push(item.detail);
    found.set(advice, obstacle);
  }
  return [...found.values()];
}

/** A part of a sentence. */
export interface IPiece {
  text: string;
  isCode: boolean;
}

/** The parts of a sentence in which code stands between backquotes. */
export function pieces(sentence: string): IPiece[] {
  const parts = sentence.split('`');
  const isClosed = parts.length % 2 === 1;
  return parts
    .map((text, index) => ({ text, isCode: isClosed && index % 2 === 1 }))
    .filter(({ text }) => text);
}
