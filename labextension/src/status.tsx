import { ReactWidget, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import { formatBytes } from './format';
import { cameraIcon, moonIcon } from './icons';
import type { SnapshotModel } from './model';
import type { Sleepers } from './sleep/sleepers';
import type { Targets } from './targets';

/**
 * In the status bar: how many snapshots there are, and what they cost.
 */
export class StatusItem extends ReactWidget {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets,
    private readonly sleepers: Sleepers,
    private readonly open: () => void,
    private readonly trans: TranslationBundle
  ) {
    super();
    sleepers.changed.connect(() => this.update());
    this.addClass('jp-cr-Status');
    this.addClass('jp-mod-highlighted');
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this.targets.changed}>
        {() => (
          <UseSignal signal={this.model.changed}>
            {() => this.content()}
          </UseSignal>
        )}
      </UseSignal>
    );
  }

  private content(): JSX.Element {
    const { model, sleepers, targets, trans } = this;
    const place = targets.currentPlace;
    const sleep = place && sleepers.of(place.widget);
    const kernelId = targets.current?.kernelId ?? sleep?.kernel_id ?? '';
    const activity = model.activity(kernelId);
    const own = kernelId ? model.of(kernelId).length : 0;
    const bytes = model.snapshots.reduce((sum, { bytes }) => sum + bytes, 0);
    const count = trans.__(
      'Kernel snapshots: %1 of this kernel, %2 in all, %3 on disk',
      own,
      model.snapshots.length,
      formatBytes(bytes)
    );
    const title = sleep ? trans.__('This kernel hibernates. %1', count) : count;
    const Icon = sleep ? moonIcon : cameraIcon;
    return (
      <button className="jp-cr-Status-button" title={title} onClick={this.open}>
        <Icon.react tag="span" className="jp-cr-Status-icon" />
        {activity ? (
          <progress
            max={1}
            value={activity.fraction ?? undefined}
            aria-label={title}
          />
        ) : (
          <span>
            {own} · {formatBytes(bytes)}
          </span>
        )}
      </button>
    );
  }
}
