import type { ILauncher } from '@jupyterlab/launcher';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';

import { CommandIDs } from './commands';
import { cameraIcon } from './icons';
import type { SnapshotModel } from './model';

const RESUME = 'jupyter-cr:resume';

/**
 * A card of the launcher from which work goes on where it was left.
 */
export function addResumeCard(
  commands: CommandRegistry,
  launcher: ILauncher,
  model: SnapshotModel,
  trans: TranslationBundle
): void {
  commands.addCommand(RESUME, {
    label: trans.__('Resume from Snapshot'),
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
  model.changed.connect(() => commands.notifyCommandChanged(RESUME));
  launcher.add({ command: RESUME, category: trans.__('Other'), rank: 50 });
}
