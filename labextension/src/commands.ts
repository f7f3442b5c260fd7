import type { JupyterFrontEnd } from '@jupyterlab/application';
import { InputDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import {
  CommandToolbarButton,
  deleteIcon,
  editIcon,
  runIcon,
  undoIcon
} from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { Widget } from '@lumino/widgets';

import type { Actions } from './actions';
import { baseName } from './format';
import { cameraIcon, forkIcon, moonIcon } from './icons';
import type { Meant } from './meant';
import { isHibernated, isUsable, type SnapshotModel } from './model';
import { obstacles } from './obstacles';
import type { Sleepers } from './sleep/sleepers';
import type { ITarget, Targets } from './targets';
import type { ISnapshot } from './types';

/** Ids of our commands. */
export namespace CommandIDs {
  export const snapshot = 'jupyter-cr:snapshot';
  export const hibernate = 'jupyter-cr:hibernate';
  export const resume = 'jupyter-cr:resume';
  export const restoreLast = 'jupyter-cr:restore-last';
  export const undo = 'jupyter-cr:undo';
  export const restore = 'jupyter-cr:restore';
  export const fork = 'jupyter-cr:fork';
  export const rename = 'jupyter-cr:rename';
  export const remove = 'jupyter-cr:delete';
  export const showPanel = 'jupyter-cr:show-panel';
}

/**
 * The button of a notebook's or console's toolbar, which is for its own kernel, whichever
 * is the current one.
 */
export function snapshotButton(
  commands: CommandRegistry,
  widget: Widget
): CommandToolbarButton {
  return new CommandToolbarButton({
    commands,
    id: CommandIDs.snapshot,
    args: { toolbar: true, widget: widget.id }
  });
}

/** What commands are made of. */
export interface ICommandParts {
  app: JupyterFrontEnd;
  actions: Actions;
  model: SnapshotModel;
  targets: Targets;
  sleepers: Sleepers;
  meant: Meant;
  trans: TranslationBundle;
  /** Shows the panel, and a snapshot in it. */
  showPanel: (snapshot?: string) => void;
  /** Has somebody edit a name in place; false if it is not on the screen. */
  editName: (snapshot: string) => boolean;
}

/**
 * Add the commands that everything else is made of.
 */
export function addCommands(parts: ICommandParts): void {
  const { app, actions, model, targets, sleepers, meant } = parts;
  const { trans, showPanel, editName } = parts;
  const { commands } = app;

  const kernelArgs = {
    kernelId: {
      type: 'string',
      description: trans.__(
        'Id of a kernel that is open on this page; the current one by default.'
      )
    }
  };
  const snapshotArgs = {
    snapshot: {
      type: 'string',
      description: trans.__('Name of a snapshot; asked for if there is none.')
    }
  };

  /** The kernel that is meant. */
  function targetOf(args: ReadonlyPartialJSONObject): ITarget | null {
    const { kernelId, widget } = args;
    if (typeof kernelId === 'string') {
      return targets.of(kernelId)[0] ?? null;
    }
    return typeof widget === 'string' ? targets.at(widget) : targets.current;
  }

  const nameOf = meant.nameOf.bind(meant);
  const choose = meant.choose.bind(meant);

  /** Whether there is one that can be brought back. */
  function canBringBack(args: ReadonlyPartialJSONObject): boolean {
    const name = nameOf(args);
    if (!model.canRestore) {
      return false;
    }
    if (name === undefined) {
      return model.snapshots.length > 0;
    }
    const snapshot = model.get(name);
    return snapshot !== undefined && isUsable(snapshot);
  }

  function isFree(target: ITarget | null): target is ITarget {
    return target !== null && !model.activity(target.kernelId);
  }

  function canGoBack(args: ReadonlyPartialJSONObject): boolean {
    const target = targetOf(args);
    return model.canRestore && isFree(target) && !!model.last(target.kernelId);
  }

  /** Why something cannot be done, for those who ask the button. */
  function refusal(): string | undefined {
    const { capabilities } = model;
    return capabilities ? obstacles(capabilities)[0]?.advice : undefined;
  }

  commands.addCommand(CommandIDs.snapshot, {
    label: args => (args.toolbar ? '' : trans.__('Snapshot Kernel')),
    caption: args => {
      if (!model.canCheckpoint) {
        return trans.__(
          'Kernels cannot be snapshotted here. %1',
          refusal() ?? ''
        );
      }
      const target = targetOf(args);
      return target && model.activity(target.kernelId)
        ? trans.__('Taking a snapshot of the kernel…')
        : trans.__(
            'Snapshot the kernel: save its state, to go back to it later'
          );
    },
    icon: args => (args.toolbar || args.isPalette ? cameraIcon : undefined),
    className: args => {
      const target = targetOf(args);
      const isBusy = target !== null && !!model.activity(target.kernelId);
      return isBusy ? 'jp-cr-mod-busy' : '';
    },
    isEnabled: args => model.canCheckpoint && isFree(targetOf(args)),
    execute: async args => {
      const target = targetOf(args);
      if (isFree(target)) {
        await actions.snapshot(target, {
          name: typeof args.name === 'string' ? args.name : undefined,
          note: typeof args.note === 'string' ? args.note : undefined
        });
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...kernelArgs,
          name: {
            type: 'string',
            description: trans.__('Of the snapshot; made up by default.')
          },
          note: { type: 'string', description: trans.__('Any text.') }
        }
      }
    }
  });

  /** The snapshot in which the kernel hibernates that is meant. */
  function sleepOf(args: ReadonlyPartialJSONObject): ISnapshot | undefined {
    const name = nameOf(args);
    if (name !== undefined) {
      const snapshot = model.get(name);
      return snapshot && isHibernated(snapshot) ? snapshot : undefined;
    }
    const widget = targets.currentPlace?.widget;
    return widget && sleepers.of(widget);
  }

  commands.addCommand(CommandIDs.hibernate, {
    label: trans.__('Hibernate Kernel'),
    caption: args => {
      if (!model.canCheckpoint || !model.canRestore) {
        return trans.__('Kernels cannot hibernate here. %1', refusal() ?? '');
      }
      const target = targetOf(args);
      if (!target) {
        return sleepOf(args)
          ? trans.__('The kernel hibernates already')
          : trans.__('There is no kernel that could hibernate');
      }
      return model.activity(target.kernelId)
        ? trans.__('Something else is being done with the kernel')
        : trans.__(
            'Save the kernel and end it: it needs no memory until it is resumed, and goes on where it was'
          );
    },
    icon: args => (args.isPalette ? moonIcon : undefined),
    isEnabled: args =>
      model.canCheckpoint && model.canRestore && isFree(targetOf(args)),
    isVisible: args => args.isPalette === true || !sleepOf(args),
    execute: async args => {
      const target = targetOf(args);
      if (isFree(target)) {
        await actions.hibernate(target);
      }
    },
    describedBy: { args: { type: 'object', properties: kernelArgs } }
  });

  commands.addCommand(CommandIDs.resume, {
    label: args => {
      const snapshot = args.isCard ? sleepOf(args) : undefined;
      return snapshot
        ? baseName(snapshot.path) || snapshot.kernel_name
        : trans.__('Resume Kernel');
    },
    caption: args => {
      const snapshot = sleepOf(args);
      return snapshot
        ? trans.__(
            'Have the kernel go on where it was, from snapshot “%1”',
            snapshot.name
          )
        : trans.__('The kernel does not hibernate');
    },
    icon: args =>
      args.isCard ? moonIcon : args.isPalette ? runIcon : undefined,
    isEnabled: args => {
      const snapshot = sleepOf(args);
      return (
        model.canRestore && !!snapshot && !model.activity(snapshot.kernel_id)
      );
    },
    isVisible: args => args.isPalette === true || !!sleepOf(args),
    execute: async args => {
      const snapshot = sleepOf(args);
      if (snapshot) {
        await actions.resume(snapshot);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          snapshot: {
            type: 'string',
            description: trans.__(
              'Name of a snapshot in which a kernel hibernates; the one of the current notebook by default.'
            )
          }
        }
      }
    }
  });

  commands.addCommand(CommandIDs.restoreLast, {
    label: trans.__('Restore Last Snapshot'),
    caption: args => {
      const target = targetOf(args);
      const last = target && model.last(target.kernelId);
      return last
        ? trans.__('Bring the kernel back to “%1”', last.name)
        : trans.__('There is no snapshot of this kernel yet');
    },
    icon: args => (args.isPalette ? undoIcon : undefined),
    isEnabled: canGoBack,
    execute: async args => {
      const target = targetOf(args);
      const last = target && model.last(target.kernelId);
      if (last) {
        await actions.restore(last);
      }
    },
    describedBy: { args: { type: 'object', properties: kernelArgs } }
  });

  commands.addCommand(CommandIDs.undo, {
    label: trans.__('Step Back to the Snapshot Before'),
    caption: trans.__(
      'Bring the kernel back to its last snapshot; done again, to the one before it'
    ),
    icon: args => (args.isPalette ? undoIcon : undefined),
    isEnabled: canGoBack,
    execute: async args => {
      const target = targetOf(args);
      if (isFree(target)) {
        await actions.undo(target);
      }
    },
    describedBy: { args: { type: 'object', properties: kernelArgs } }
  });

  commands.addCommand(CommandIDs.restore, {
    label: args =>
      args.document
        ? trans.__('Restore Kernel and Notebook')
        : args.isContext
          ? sleepOf(args)
            ? trans.__('Resume Kernel')
            : trans.__('Restore Kernel')
          : trans.__('Restore Snapshot…'),
    caption: args =>
      args.document
        ? trans.__(
            'Bring the kernel back, and the notebook as it was saved then'
          )
        : trans.__('Bring a kernel back to a snapshot of it'),
    icon: args =>
      args.isContext && !args.document && sleepOf(args) ? runIcon : undoIcon,
    isEnabled: canBringBack,
    isVisible: args => {
      const name = nameOf(args);
      return (
        !args.document ||
        name === undefined ||
        (model.get(name)?.has_document ?? false)
      );
    },
    execute: async args => {
      const snapshot = await choose(args, trans.__('Restore Snapshot'));
      if (snapshot) {
        const document = args.document;
        await actions.restore(
          snapshot,
          typeof document === 'boolean' ? { document } : {}
        );
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...snapshotArgs,
          document: {
            type: 'boolean',
            description: trans.__(
              'Whether to bring the notebook back, too; as in the settings by default.'
            )
          }
        }
      }
    }
  });

  commands.addCommand(CommandIDs.fork, {
    label: args =>
      args.isContext || args.snapshot
        ? trans.__('Fork into New Notebook')
        : trans.__('Fork Kernel into New Notebook'),
    caption: trans.__(
      'Open a copy, with a kernel of its own that goes on from the same state'
    ),
    icon: args => (args.isContext || args.isPalette ? forkIcon : undefined),
    isEnabled: args =>
      nameOf(args) !== undefined
        ? canBringBack(args)
        : model.canRestore && model.canCheckpoint && isFree(targetOf(args)),
    execute: async args => {
      const name = nameOf(args);
      const snapshot = name === undefined ? undefined : model.get(name);
      const target = targetOf(args);
      if (snapshot) {
        await actions.fork(snapshot);
      } else if (name === undefined && isFree(target)) {
        await actions.forkKernel(target);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...kernelArgs,
          snapshot: {
            type: 'string',
            description: trans.__(
              'Name of a snapshot; the kernel as it is now by default.'
            )
          }
        }
      }
    }
  });

  commands.addCommand(CommandIDs.rename, {
    label: trans.__('Rename Snapshot…'),
    caption: trans.__('Give a snapshot another name'),
    icon: editIcon,
    isEnabled: () => model.snapshots.length > 0,
    execute: async args => {
      if (
        typeof args.snapshot === 'string' &&
        typeof args.newName === 'string'
      ) {
        await actions.rename(args.snapshot, args.newName);
        return;
      }
      const snapshot = await choose(args, trans.__('Rename Snapshot'));
      if (!snapshot || editName(snapshot.name)) {
        return;
      }
      const { value } = await InputDialog.getText({
        title: trans.__('Rename Snapshot'),
        text: snapshot.name
      });
      if (value && value !== snapshot.name) {
        await actions.rename(snapshot.name, value);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...snapshotArgs,
          newName: { type: 'string', description: trans.__('The new name.') }
        }
      }
    }
  });

  commands.addCommand(CommandIDs.remove, {
    label: args =>
      args.isContext ? trans.__('Delete') : trans.__('Delete Snapshot…'),
    caption: trans.__('Delete a snapshot; kernels are not affected'),
    icon: deleteIcon,
    isEnabled: () => model.snapshots.length > 0,
    execute: async args => {
      const names = Array.isArray(args.snapshots)
        ? args.snapshots.filter(name => typeof name === 'string')
        : [(await choose(args, trans.__('Delete Snapshot')))?.name];
      actions.delete(names.filter(name => name !== undefined) as string[]);
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...snapshotArgs,
          snapshots: {
            type: 'array',
            items: { type: 'string' },
            description: trans.__('Names of several.')
          }
        }
      }
    }
  });

  commands.addCommand(CommandIDs.showPanel, {
    label: trans.__('Show Kernel Snapshots'),
    caption: trans.__('Show what there is to go back to'),
    icon: args => (args.isPalette ? cameraIcon : undefined),
    execute: args => {
      showPanel(typeof args.snapshot === 'string' ? args.snapshot : undefined);
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          snapshot: {
            type: 'string',
            description: trans.__('Name of a snapshot to show.')
          }
        }
      }
    }
  });

  const announce = () => {
    for (const id of Object.values(CommandIDs)) {
      commands.notifyCommandChanged(id);
    }
  };
  model.changed.connect(announce);
  sleepers.changed.connect(announce);
  targets.changed.connect(announce);
}
