import type { ILauncher } from '@jupyterlab/launcher';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';

import { CommandIDs } from '../commands';
import type { SnapshotModel } from '../model';

/** How many there is room for. */
const MAX_CARDS = 8;

/**
 * In the launcher, a card for each kernel that hibernates; those that did so last, if there
 * are many.
 */
export function addSleepCards(
  launcher: ILauncher,
  model: SnapshotModel,
  trans: TranslationBundle
): void {
  const cards = new Map<string, IDisposable>();
  const look = () => {
    const names = model.hibernated.slice(0, MAX_CARDS).map(({ name }) => name);
    for (const [name, card] of cards) {
      if (!names.includes(name)) {
        cards.delete(name);
        card.dispose();
      }
    }
    names.forEach((name, rank) => {
      if (!cards.has(name)) {
        const card = launcher.add({
          command: CommandIDs.resume,
          args: { snapshot: name, isCard: true },
          category: trans.__('Hibernating Kernels'),
          // After what is begun anew, before all else.
          categoryRank: 30,
          rank
        });
        cards.set(name, card);
      }
    });
  };
  model.changed.connect(look);
  look();
}
