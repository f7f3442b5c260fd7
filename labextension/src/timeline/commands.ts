import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { TranslationBundle } from '@jupyterlab/translation';
import {
  CommandToolbarButton,
  historyIcon,
  redoIcon,
  undoIcon
} from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { Widget } from '@lumino/widgets';

import type { SnapshotModel } from '../model';
import type { ITarget, Targets } from '../targets';
import type { Timelines } from './timelines';
import { nameOf, type Travels } from './travels';

/** Ids of the timeline's commands. */
export namespace TimelineIDs {
  export const toggle = 'jupyter-cr:timeline';
  export const undo = 'jupyter-cr:undo-run';
  export const redo = 'jupyter-cr:redo-run';
  export const goTo = 'jupyter-cr:go-to-point';
  export const keep = 'jupyter-cr:keep-point';
}

/** The switch in a notebook's or console's toolbar, for its own kernel. */
export function timelineButton(
  commands: CommandRegistry,
  widget: Widget
): CommandToolbarButton {
  return new CommandToolbarButton({
    commands,
    id: TimelineIDs.toggle,
    args: { toolbar: true, widget: widget.id }
  });
}

/** What the commands are made of. */
export interface ITimelineParts {
  app: JupyterFrontEnd;
  model: SnapshotModel;
  targets: Targets;
  timelines: Timelines;
  travels: Travels;
  trans: TranslationBundle;
}

/** Add the commands of the timeline. */
export function addTimelineCommands(parts: ITimelineParts): void {
  const { app, model, targets, timelines, travels, trans } = parts;
  const { commands } = app;
  const kernelArgs = {
    kernelId: {
      type: 'string',
      description: trans.__(
        'Id of a kernel that is open on this page; the current one by default.'
      )
    }
  };
  const pointArgs = {
    ...kernelArgs,
    point: { type: 'string', description: trans.__('Name of the point.') }
  };

  function targetOf(args: ReadonlyPartialJSONObject): ITarget | null {
    const { kernelId, widget } = args;
    if (typeof kernelId === 'string') {
      return targets.of(kernelId)[0] ?? null;
    }
    return typeof widget === 'string' ? targets.at(widget) : targets.current;
  }

  function timelineOf(args: ReadonlyPartialJSONObject) {
    const target = targetOf(args);
    return target ? timelines.of(target.kernelId) : undefined;
  }

  function isOn(args: ReadonlyPartialJSONObject): boolean {
    return timelineOf(args)?.is_on ?? false;
  }

  function isFree(args: ReadonlyPartialJSONObject): boolean {
    const target = targetOf(args);
    return target !== null && !model.activity(target.kernelId);
  }

  commands.addCommand(TimelineIDs.toggle, {
    label: args => (args.toolbar ? '' : trans.__('Snapshot Before Each Run')),
    caption: args =>
      !model.canCheckpoint
        ? trans.__('Kernels cannot be snapshotted here')
        : isOn(args)
          ? trans.__(
              'Each run can be undone: there is a snapshot in memory before it. Click to switch that off'
            )
          : trans.__(
              'Have a snapshot in memory before each run, so that each can be undone'
            ),
    icon: args => (args.toolbar || args.isPalette ? historyIcon : undefined),
    isToggleable: true,
    isToggled: isOn,
    isEnabled: args => model.canCheckpoint && targetOf(args) !== null,
    execute: async args => {
      const target = targetOf(args);
      if (target) {
        const wanted = typeof args.isOn === 'boolean' ? args.isOn : !isOn(args);
        await travels.switch(target, wanted);
      }
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          ...kernelArgs,
          isOn: {
            type: 'boolean',
            description: trans.__('On or off; the other by default.')
          }
        }
      }
    }
  });

  commands.addCommand(TimelineIDs.undo, {
    label: trans.__('Undo Run'),
    caption: args => {
      const timeline = timelineOf(args);
      if (!timeline?.is_on) {
        return trans.__(
          'Switch “Snapshot Before Each Run” on first, to be able to undo what is run afterwards'
        );
      }
      const run = timelines.undone(timeline.kernel_id);
      return timeline.back && run
        ? trans.__(
            'Bring kernel and notebook back to before %1',
            nameOf(run, trans)
          )
        : trans.__('There is nothing to undo');
    },
    icon: args => (args.isPalette ? undoIcon : undefined),
    isEnabled: args => isFree(args) && !!timelineOf(args)?.back,
    execute: async args => {
      const target = targetOf(args);
      if (target) {
        await travels.step(target, -1);
      }
    },
    describedBy: { args: { type: 'object', properties: kernelArgs } }
  });

  commands.addCommand(TimelineIDs.redo, {
    label: trans.__('Redo Run'),
    caption: trans.__('Bring kernel and notebook forward again'),
    icon: args => (args.isPalette ? redoIcon : undefined),
    isEnabled: args => isFree(args) && !!timelineOf(args)?.forward,
    execute: async args => {
      const target = targetOf(args);
      if (target) {
        await travels.step(target, 1);
      }
    },
    describedBy: { args: { type: 'object', properties: kernelArgs } }
  });

  for (const [id, label, caption, act] of [
    [
      TimelineIDs.goTo,
      trans.__('Go to a Point of the Timeline'),
      trans.__('Bring kernel and notebook to a point'),
      (target: ITarget, point: string) => travels.goTo(target, point)
    ],
    [
      TimelineIDs.keep,
      trans.__('Keep This Point as a Snapshot…'),
      trans.__('Points go by themselves; a snapshot stays'),
      (target: ITarget, point: string) => travels.keep(target, point)
    ]
  ] as const) {
    commands.addCommand(id, {
      label,
      caption,
      isEnabled: args => isFree(args) && !!timelineOf(args)?.base,
      execute: async args => {
        const target = targetOf(args);
        const point =
          typeof args.point === 'string' ? args.point : timelineOf(args)?.base;
        if (target && point) {
          await act(target, point);
        }
      },
      describedBy: { args: { type: 'object', properties: pointArgs } }
    });
  }

  const announce = () => {
    for (const id of Object.values(TimelineIDs)) {
      commands.notifyCommandChanged(id);
    }
  };
  model.changed.connect(announce);
  targets.changed.connect(announce);
  timelines.changed.connect(announce);
}
