import type { ILauncher } from '@jupyterlab/launcher';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';

import { CommandIDs } from './commands';
import { cameraIcon } from './icons';
import type { SnapshotModel } from './model';

const RESTORE = 'jupyter-cr:restore-card';

/**
 * A card of the launcher from which work goes on where it was left.
 */
export function addRestoreCard(
  commands: CommandRegistry,
  launcher: ILauncher,
  model: SnapshotModel,
  trans: TranslationBundle
): void {
  commands.addCommand(RESTORE, {
    label: trans.__('Restore Snapshot'),
    caption: trans.__(
      'Go on with a notebook and its kernel where a snapshot was taken'
    ),
    icon: cameraIcon,
    isEnabled: () => model.canRestore && model.snapshots.length > 0,
    isVisible: () => model.snapshots.length > 0,
    execute: async () => {
      await commands.execute(CommandIDs.restore);
    },
    describedBy: { args: { type: 'object', properties: {} } }
  });
  model.changed.connect(() => commands.notifyCommandChanged(RESTORE));
  launcher.add({ command: RESTORE, category: trans.__('Other'), rank: 50 });
}
