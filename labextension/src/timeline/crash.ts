import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { Targets } from '../targets';
import type { ICrash, Timelines } from './timelines';
import { nameOf, type Travels } from './travels';

/** Offers to undo a cell that has ended its kernel, and says what has gone wrong. */
export function addTimelineNotices(
  targets: Targets,
  timelines: Timelines,
  travels: Travels,
  trans: TranslationBundle
): void {
  timelines.crashed.connect((_, { kernelId, run }: ICrash) => {
    const [target] = targets.of(kernelId);
    if (!target) {
      return;
    }
    const id = Notification.emit(
      run.msg_id
        ? trans.__('The kernel has ended in %1.', nameOf(run, trans))
        : trans.__('The kernel has ended.'),
      'warning',
      {
        autoClose: false,
        actions: [
          {
            label: trans.__('Undo Run'),
            caption: trans.__('Bring kernel and notebook back to before that'),
            displayType: 'accent',
            callback: () => void travels.step(target, -1)
          }
        ]
      }
    );
    // Once it is back, or something else is run, that is not the last any more.
    const look = () => {
      if (timelines.undone(kernelId)?.started !== run.started) {
        timelines.changed.disconnect(look);
        Notification.dismiss(id);
      }
    };
    timelines.changed.connect(look);
  });
  timelines.failed.connect((_, { problem, hint }) => {
    Notification.emit(
      trans.__('The last run cannot be undone. %1', [problem, hint].join(' ')),
      'warning',
      { autoClose: 10000 }
    );
  });
}
