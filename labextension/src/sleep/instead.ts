import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { ISnapshot } from '../types';
import type { Instead } from './sleepers';

/**
 * Ask what is wanted where somebody starts a kernel in place of one that hibernates.
 */
export async function askWhatInstead(
  snapshot: ISnapshot,
  trans: TranslationBundle
): Promise<Instead> {
  const { button } = await showDialog({
    title: trans.__('Resume the kernel, or start afresh?'),
    body: trans.__(
      'This kernel is hibernating: its state is kept in snapshot “%1”. If it is started afresh, all variables will be lost.',
      snapshot.name
    ),
    buttons: [
      Dialog.cancelButton(),
      Dialog.warnButton({
        label: trans.__('Start afresh'),
        actions: ['restart']
      }),
      Dialog.okButton({ label: trans.__('Resume'), actions: ['resume'] })
    ]
  });
  if (!button.accept) {
    return 'nothing';
  }
  return button.actions.includes('restart') ? 'restart' : 'resume';
}
