import type { TranslationBundle } from '@jupyterlab/translation';
import {
  downloadIcon,
  fileUploadIcon,
  trustedIcon
} from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';

import type { Meant } from '../meant';
import { isWhole, type SnapshotModel } from '../model';
import type { Bundles } from './bundles';
import type { Trust } from './trust';

/** Ids of the commands for bundles. */
export namespace BundleCommandIDs {
  export const exportOne = 'jupyter-cr:export';
  export const importOne = 'jupyter-cr:import';
  export const trust = 'jupyter-cr:trust';
}

/**
 * Add the commands that carry snapshots elsewhere, and let them in.
 */
export function addBundleCommands(parts: {
  commands: CommandRegistry;
  model: SnapshotModel;
  meant: Meant;
  bundles: Bundles;
  trust: Trust;
  trans: TranslationBundle;
}): void {
  const { commands, model, meant, bundles, trust, trans } = parts;
  const snapshotArgs = {
    type: 'object',
    properties: {
      snapshot: {
        type: 'string',
        description: trans.__('Name of a snapshot; asked for if there is none.')
      }
    }
  };

  commands.addCommand(BundleCommandIDs.exportOne, {
    label: args =>
      args.isContext ? trans.__('Export') : trans.__('Export Snapshot…'),
    caption: trans.__('Save a snapshot as one file, to be carried elsewhere'),
    icon: downloadIcon,
    isEnabled: args => {
      const snapshot = meant.of(args);
      return snapshot ? isWhole(snapshot) : model.snapshots.some(isWhole);
    },
    execute: async args => {
      const title = trans.__('Export Snapshot');
      const snapshot = await meant.choose(args, title, isWhole);
      if (snapshot) {
        bundles.export(snapshot);
      }
    },
    describedBy: { args: snapshotArgs }
  });

  commands.addCommand(BundleCommandIDs.importOne, {
    label: trans.__('Import Snapshot…'),
    caption: trans.__('Take a snapshot out of a file that was exported'),
    icon: fileUploadIcon,
    isEnabled: () => model.problem === null,
    execute: () => bundles.choose(),
    describedBy: { args: { type: 'object', properties: {} } }
  });

  commands.addCommand(BundleCommandIDs.trust, {
    label: args =>
      args.isContext ? trans.__('Trust…') : trans.__('Trust Snapshot…'),
    caption: trans.__('Say that a snapshot from elsewhere may be restored'),
    icon: trustedIcon,
    isEnabled: args => {
      const snapshot = meant.of(args);
      return snapshot ? isForeign(snapshot) : model.snapshots.some(isForeign);
    },
    isVisible: args => {
      const snapshot = meant.of(args);
      return !snapshot || isForeign(snapshot);
    },
    execute: async args => {
      const title = trans.__('Trust Snapshot');
      const snapshot = await meant.choose(args, title, isForeign);
      if (snapshot) {
        await trust.ask(snapshot);
      }
    },
    describedBy: { args: snapshotArgs }
  });

  model.changed.connect(() => {
    for (const id of Object.values(BundleCommandIDs)) {
      commands.notifyCommandChanged(id);
    }
  });
}

function isForeign({ trusted }: { trusted: boolean }): boolean {
  return !trusted;
}
