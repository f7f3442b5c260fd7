import { CommandToolbarButton } from '@jupyterlab/ui-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import { fileUploadIcon, refreshIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { Widget } from '@lumino/widgets';

import type { Actions } from '../actions';
import { forkIcon } from '../icons';
import type { Meant } from '../meant';
import type { SnapshotModel } from '../model';
import type { ITarget, Targets } from '../targets';
import type { ISnapshot } from '../types';
import type { Lessons } from './lessons';
import type { Teaching } from './teaching';

/** Ids of the commands for lessons. */
export namespace TeachingCommandIDs {
  export const start = 'jupyter-cr:start-lesson';
  export const startHere = 'jupyter-cr:start-lesson-here';
  export const reset = 'jupyter-cr:reset-lesson';
  export const publish = 'jupyter-cr:publish-lesson';
}

/** The button of a notebook's toolbar, which is there for kernels of lessons only. */
export function resetButton(
  commands: CommandRegistry,
  widget: Widget
): CommandToolbarButton {
  return new CommandToolbarButton({
    commands,
    id: TeachingCommandIDs.reset,
    args: { toolbar: true, widget: widget.id }
  });
}

/**
 * Add the commands that start lessons, go back to their beginnings, and publish them.
 */
export function addTeachingCommands(parts: {
  commands: CommandRegistry;
  actions: Actions;
  model: SnapshotModel;
  targets: Targets;
  meant: Meant;
  lessons: Lessons;
  teaching: Teaching;
  trans: TranslationBundle;
}): void {
  const { commands, actions, model, targets, meant, lessons, teaching, trans } =
    parts;

  commands.addCommand(TeachingCommandIDs.start, {
    label: args => String(args.title ?? trans.__('Start Lesson')),
    caption: args => {
      const lesson = lessons.get(args.title);
      return lesson
        ? trans.__(
            'Start from “%1” by %2, in a notebook of your own',
            lesson.title,
            lesson.publisher
          )
        : trans.__('Start from what somebody has prepared');
    },
    icon: forkIcon,
    isEnabled: args => model.canRestore && !!lessons.get(args.title),
    execute: async args => {
      const directory = typeof args.cwd === 'string' ? args.cwd : '';
      await teaching.start(String(args.title), directory);
    },
    describedBy: {
      args: {
        type: 'object',
        required: ['title'],
        properties: {
          title: { type: 'string', description: trans.__('Of the lesson.') },
          cwd: {
            type: 'string',
            description: trans.__('Directory of the new notebook.')
          }
        }
      }
    }
  });

  commands.addCommand(TeachingCommandIDs.startHere, {
    label: trans.__('Start Lesson in This Notebook…'),
    caption: trans.__(
      'Give this notebook a kernel in the state of a lesson, as for an assignment'
    ),
    isVisible: () => lessons.all.length > 0,
    isEnabled: () =>
      model.canRestore &&
      lessons.all.length > 0 &&
      !!targets.currentPlace?.notebook,
    execute: async () => {
      const panel = targets.currentPlace?.notebook;
      if (panel) {
        await teaching.startIn(panel);
      }
    },
    describedBy: { args: { type: 'object', properties: {} } }
  });

  function targetOf(args: ReadonlyPartialJSONObject): ITarget | null {
    const { widget } = args;
    return typeof widget === 'string' ? targets.at(widget) : targets.current;
  }

  function startOf(args: ReadonlyPartialJSONObject): string | undefined {
    const target = targetOf(args);
    return target ? lessons.startOf(target.kernelId) : undefined;
  }

  commands.addCommand(TeachingCommandIDs.reset, {
    label: args => (args.toolbar ? '' : trans.__('Reset to Lesson Start')),
    caption: args =>
      trans.__(
        'Reset to the beginning of “%1”: kernel and notebook. Your work is kept as a snapshot.',
        startOf(args) ?? ''
      ),
    icon: args => (args.toolbar ? refreshIcon : undefined),
    isVisible: args => startOf(args) !== undefined,
    isEnabled: args => {
      const target = targetOf(args);
      return (
        startOf(args) !== undefined &&
        model.canRestore &&
        target !== null &&
        !model.activity(target.kernelId)
      );
    },
    execute: async args => {
      const target = targetOf(args);
      const start = startOf(args);
      if (target && start) {
        await actions.reset(target, start);
      }
    },
    describedBy: { args: { type: 'object', properties: {} } }
  });

  const canBePublished = (snapshot: ISnapshot) =>
    lessons.where !== '' &&
    ['live', 'warm', 'durable'].includes(snapshot.state) &&
    snapshot.has_document &&
    snapshot.trusted;

  commands.addCommand(TeachingCommandIDs.publish, {
    label: trans.__('Publish as Lesson…'),
    caption: trans.__('Have others start from a snapshot'),
    icon: fileUploadIcon,
    isVisible: () => lessons.where !== '',
    isEnabled: args => {
      const snapshot = meant.of(args);
      return snapshot
        ? canBePublished(snapshot)
        : model.snapshots.some(canBePublished);
    },
    execute: async args => {
      const title = trans.__('Publish as Lesson');
      const snapshot = await meant.choose(args, title, canBePublished);
      if (snapshot) {
        await teaching.publish(snapshot);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          snapshot: {
            type: 'string',
            description: trans.__(
              'Name of a snapshot; asked for if there is none.'
            )
          }
        }
      }
    }
  });

  const announce = () => {
    for (const id of Object.values(TeachingCommandIDs)) {
      commands.notifyCommandChanged(id);
    }
  };
  model.changed.connect(announce);
  lessons.changed.connect(announce);
  targets.changed.connect(announce);
}
