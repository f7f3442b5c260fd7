import { ReactWidget, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { redoIcon, saveIcon, undoIcon } from '@jupyterlab/ui-components';
import React, { useEffect, useRef, useState } from 'react';

import { formatBytes, formatTime } from '../format';
import type { SnapshotModel } from '../model';
import type { Settings } from '../settings';
import type { IPlace, ITarget, Targets } from '../targets';
import type { IPoint, ITimelineAnswer } from '../types';
import type { Timelines } from './timelines';
import { nameOf, type Travels } from './travels';

/** How long a slider must rest before the kernel goes where it points, in ms. */
const REST_MS = 400;

/** What the bar is made of. */
export interface IBarParts {
  model: SnapshotModel;
  targets: Targets;
  timelines: Timelines;
  travels: Travels;
  settings: Settings;
  trans: TranslationBundle;
}

/** Has each notebook and console show its timeline. */
export function addTimelineBars(parts: IBarParts): void {
  const add = (place: IPlace) =>
    place.widget.contentHeader.addWidget(new TimelineBar(place, parts));
  for (const place of parts.targets.places()) {
    add(place);
  }
  parts.targets.opened.connect((_, place) => add(place));
}

/**
 * Above a notebook or console: a slider through all points of its timeline.
 */
class TimelineBar extends ReactWidget {
  constructor(
    private readonly place: IPlace,
    private readonly parts: IBarParts
  ) {
    super();
    this.addClass('jp-cr-Timeline');
    this.node.setAttribute('role', 'group');
    this.node.setAttribute('aria-label', parts.trans.__('Timeline'));
    const { settings, targets, timelines } = parts;
    const look = () =>
      this.setHidden(!settings.now.timelineBar || !this.timeline?.is_on);
    timelines.changed.connect(look);
    targets.changed.connect(look);
    settings.changed.connect(look);
    this.disposed.connect(() => {
      timelines.changed.disconnect(look);
      targets.changed.disconnect(look);
      settings.changed.disconnect(look);
    });
    look();
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this.parts.timelines.changed}>
        {() => (
          <UseSignal signal={this.parts.model.changed}>
            {() => this.content()}
          </UseSignal>
        )}
      </UseSignal>
    );
  }

  private get target(): ITarget | null {
    return this.parts.targets.at(this.place.widget.id);
  }

  private get timeline(): ITimelineAnswer | undefined {
    const { target } = this;
    return target ? this.parts.timelines.of(target.kernelId) : undefined;
  }

  private content(): JSX.Element | null {
    const { target, timeline } = this;
    if (!target || !timeline?.is_on) {
      return null;
    }
    const { model, travels, trans } = this.parts;
    return (
      <Bar
        timeline={timeline}
        isBusy={!!model.activity(target.kernelId)}
        step={steps => void travels.step(target, steps)}
        goTo={point => void travels.goTo(target, point)}
        keep={point => void travels.keep(target, point)}
        trans={trans}
      />
    );
  }
}

function Bar(props: {
  timeline: ITimelineAnswer;
  isBusy: boolean;
  step: (steps: number) => void;
  goTo: (point: string) => void;
  keep: (point: string) => void;
  trans: TranslationBundle;
}): JSX.Element {
  const { timeline, isBusy, step, goTo, keep, trans } = props;
  const { points, base } = timeline;
  const here = points.findIndex(({ name }) => name === base);
  // Where the slider is being moved to; null while it shows where the kernel is.
  const [wanted, setWanted] = useState<string | null>(null);
  const timer = useRef(0);
  useEffect(() => setWanted(null), [base]);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  const found = points.findIndex(({ name }) => name === wanted);
  const at = found < 0 ? here : found;
  const point = points[at] as IPoint | undefined;
  const label = point
    ? labelOf(timeline, point, trans)
    : trans.__('No point yet');
  const move = (index: number) => {
    const { name } = points[index];
    setWanted(name);
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      if (name !== base) {
        goTo(name);
      }
      setWanted(null);
    }, REST_MS);
  };
  const cost = timeline.limit
    ? trans.__(
        '%1 of %2',
        formatBytes(timeline.bytes),
        formatBytes(timeline.limit)
      )
    : formatBytes(timeline.bytes);
  return (
    <>
      <button
        className="jp-cr-Timeline-button"
        title={trans.__('Undo Run')}
        aria-label={trans.__('Undo Run')}
        disabled={isBusy || !timeline.back}
        onClick={() => step(-1)}
      >
        <undoIcon.react tag="span" elementSize="small" />
      </button>
      <button
        className="jp-cr-Timeline-button"
        title={trans.__('Redo Run')}
        aria-label={trans.__('Redo Run')}
        disabled={isBusy || !timeline.forward}
        onClick={() => step(1)}
      >
        <redoIcon.react tag="span" elementSize="small" />
      </button>
      <input
        className="jp-cr-Timeline-slider"
        type="range"
        min={0}
        max={Math.max(points.length - 1, 0)}
        value={Math.max(at, 0)}
        disabled={isBusy || points.length < 2}
        aria-label={trans.__('Point of the timeline')}
        aria-valuetext={label}
        title={label}
        onChange={event => move(Number(event.target.value))}
      />
      <span className="jp-cr-Timeline-label" title={label}>
        {label}
      </span>
      <span
        className="jp-cr-Timeline-cost"
        title={trans.__(
          'Memory that the points take, %1; the oldest go when it is too much',
          cost
        )}
      >
        {trans._n('%1 point', '%1 points', points.length)} · {cost}
      </span>
      <button
        className="jp-cr-Timeline-button"
        title={trans.__('Keep This Point as a Snapshot…')}
        aria-label={trans.__('Keep This Point as a Snapshot…')}
        disabled={isBusy || !point}
        onClick={() => point && keep(point.name)}
      >
        <saveIcon.react tag="span" elementSize="small" />
      </button>
    </>
  );
}

/** What a point is: after which run, and when; and whether that was on another way. */
function labelOf(
  { points, base }: ITimelineAnswer,
  point: IPoint,
  trans: TranslationBundle
): string {
  const time = formatTime(point.created);
  const run = point.runs[point.runs.length - 1];
  const said = run
    ? trans.__('After %1, %2', nameOf(run, trans), time)
    : trans.__('Beginning, %1', time);
  const byName = new Map(points.map(each => [each.name, each]));
  const isAbove = (below: string, above: string) => {
    for (let each = byName.get(below); each; each = byName.get(each.parent)) {
      if (each.name === above) {
        return true;
      }
    }
    return false;
  };
  return isAbove(base, point.name) || isAbove(point.name, base)
    ? said
    : trans.__('%1 (another branch)', said);
}
