import { ReactWidget, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import { formatTime } from '../format';
import { moonIcon } from '../icons';
import type { IPlace, Targets } from '../targets';
import type { Sleepers } from './sleepers';

/**
 * Has each notebook and console say when its kernel hibernates.
 */
export function addSleepNotices(
  targets: Targets,
  sleepers: Sleepers,
  trans: TranslationBundle
): void {
  const add = (place: IPlace) => {
    const notice = new SleepNotice(place, sleepers, trans);
    place.widget.contentHeader.addWidget(notice);
  };
  for (const place of targets.places()) {
    add(place);
  }
  targets.opened.connect((_, place) => add(place));
}

/**
 * Above a notebook or console: its kernel hibernates, and how to have it go on.
 */
class SleepNotice extends ReactWidget {
  constructor(
    private readonly place: IPlace,
    private readonly sleepers: Sleepers,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-cr-Sleep');
    this.node.setAttribute('role', 'status');
    const look = () => this.setHidden(!sleepers.of(place.widget));
    sleepers.changed.connect(look);
    this.disposed.connect(() => sleepers.changed.disconnect(look));
    look();
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this.sleepers.changed}>
        {() => this.content()}
      </UseSignal>
    );
  }

  private content(): JSX.Element | null {
    const { place, sleepers, trans } = this;
    const snapshot = sleepers.of(place.widget);
    if (!snapshot) {
      return null;
    }
    const isWaking = sleepers.isWaking(place.widget);
    const text = isWaking
      ? trans.__(
          'The kernel is being resumed from snapshot “%1”…',
          snapshot.name
        )
      : place.notebook
        ? trans.__(
            'This kernel is hibernating: its state is kept in snapshot “%1”. Run a cell or press Resume.',
            snapshot.name
          )
        : trans.__(
            'This kernel is hibernating: its state is kept in snapshot “%1”. Press Resume.',
            snapshot.name
          );
    return (
      <>
        <moonIcon.react tag="span" className="jp-cr-Sleep-icon" />
        <span
          className="jp-cr-Sleep-text"
          title={trans.__(
            '%1 It hibernates since %2.',
            text,
            formatTime(snapshot.created)
          )}
        >
          {text}
        </span>
        <button
          className="jp-cr-Sleep-button jp-mod-styled jp-mod-accept"
          disabled={isWaking}
          onClick={() => void sleepers.wake(place.widget)}
        >
          {trans.__('Resume')}
        </button>
      </>
    );
  }
}
