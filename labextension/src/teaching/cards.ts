import type { ILauncher } from '@jupyterlab/launcher';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';

import { TeachingCommandIDs } from './commands';
import type { Lessons } from './lessons';

/**
 * In the launcher, a card for each lesson.
 */
export function addLessonCards(
  launcher: ILauncher,
  lessons: Lessons,
  trans: TranslationBundle
): void {
  const cards = new Map<string, IDisposable>();
  const look = () => {
    const titles = lessons.all.map(({ title }) => title);
    for (const [title, card] of cards) {
      if (!titles.includes(title)) {
        cards.delete(title);
        card.dispose();
      }
    }
    titles.forEach((title, rank) => {
      if (!cards.has(title)) {
        const card = launcher.add({
          command: TeachingCommandIDs.start,
          args: { title },
          category: trans.__('Lessons'),
          categoryRank: 10,
          rank
        });
        cards.set(title, card);
      }
    });
  };
  lessons.changed.connect(look);
  look();
}
