import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { diffIcon } from '../icons';
import type { Meant } from '../meant';
import { isComparable, type SnapshotModel } from '../model';
import type { ISnapshot } from '../types';
import type { Comparisons } from './comparisons';

/** Ids of the commands that compare. */
export namespace ComparisonIDs {
  export const compare = 'jupyter-cr:compare';
  export const compareWithNow = 'jupyter-cr:compare-with-now';
}

/** Add the commands that compare. */
export function addComparisonCommands(parts: {
  commands: CommandRegistry;
  comparisons: Comparisons;
  model: SnapshotModel;
  meant: Meant;
  trans: TranslationBundle;
}): void {
  const { commands, comparisons, model, meant, trans } = parts;
  const snapshotArgs = {
    snapshot: {
      type: 'string',
      description: trans.__('Name of a snapshot; asked for if there is none.')
    }
  };

  function canCompare(args: ReadonlyPartialJSONObject): boolean {
    const snapshot = meant.of(args);
    return (
      model.canRestore &&
      (snapshot ? isComparable(snapshot) : model.snapshots.some(isComparable))
    );
  }

  const hasKernel = (snapshot: ISnapshot) =>
    comparisons.canCompareWithNow(snapshot);

  commands.addCommand(ComparisonIDs.compare, {
    label: args =>
      args.isContext
        ? trans.__('Compare with…')
        : trans.__('Compare Two Snapshots…'),
    caption: trans.__(
      'Show how variables, notebook, files and memory differ between two snapshots'
    ),
    icon: args => (args.isContext || args.isPalette ? diffIcon : undefined),
    isEnabled: args =>
      canCompare(args) && model.snapshots.filter(isComparable).length > 1,
    execute: async args => {
      const one = await meant.choose(
        args,
        trans.__('Compare Which Snapshot?'),
        isComparable
      );
      if (!one) {
        return;
      }
      const other = await meant.choose(
        typeof args.other === 'string' ? { snapshot: args.other } : {},
        trans.__('Compare “%1” with Which?', one.name),
        snapshot => isComparable(snapshot) && snapshot.name !== one.name
      );
      if (other) {
        comparisons.compare(one, other);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...snapshotArgs,
          other: {
            type: 'string',
            description: trans.__(
              'Name of the other one; asked for if there is none.'
            )
          }
        }
      }
    }
  });

  commands.addCommand(ComparisonIDs.compareWithNow, {
    label: args =>
      args.isContext
        ? trans.__('Compare with Now')
        : trans.__('Compare Kernel with Snapshot…'),
    caption: args => {
      const snapshot = meant.of(args);
      return snapshot && !hasKernel(snapshot)
        ? trans.__('Open the notebook of a running kernel to compare it with')
        : trans.__(
            'Show how the kernel differs, as it is now, from a snapshot'
          );
    },
    icon: args => (args.isContext || args.isPalette ? diffIcon : undefined),
    isEnabled: args => {
      const snapshot = meant.of(args);
      return snapshot ? hasKernel(snapshot) : model.snapshots.some(hasKernel);
    },
    execute: async args => {
      const snapshot = await meant.choose(
        args,
        trans.__('Compare the Kernel with Which Snapshot?'),
        hasKernel
      );
      if (snapshot) {
        comparisons.compareWithNow(snapshot);
      }
    },
    describedBy: { args: { type: 'object', properties: snapshotArgs } }
  });
}
