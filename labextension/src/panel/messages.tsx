import type { TranslationBundle } from '@jupyterlab/translation';
import { undoIcon } from '@jupyterlab/ui-components';
import React from 'react';

import { cameraIcon, forkIcon } from '../icons';
import type { SnapshotModel } from '../model';
import { obstacles, pieces } from '../obstacles';

/** What to say where there is nothing to go back to yet. */
export function Lesson(props: { trans: TranslationBundle }): JSX.Element {
  const { trans } = props;
  return (
    <div className="jp-cr-Lesson">
      <cameraIcon.react tag="div" className="jp-cr-Lesson-icon" />
      <h3>{trans.__('Nothing to go back to yet')}</h3>
      <p>
        {trans.__(
          'A snapshot holds everything behind a notebook: variables, child processes, open files.'
        )}
      </p>
      <ol>
        <li>
          <cameraIcon.react tag="span" className="jp-cr-Lesson-step" />
          <span>
            <b>{trans.__('Snapshot')}</b>{' '}
            {trans.__('before you try something. The kernel goes on at once.')}
          </span>
        </li>
        <li>
          <undoIcon.react tag="span" className="jp-cr-Lesson-step" />
          <span>
            <b>{trans.__('Restore')}</b>{' '}
            {trans.__(
              'when it went wrong. What was there before is kept, too.'
            )}
          </span>
        </li>
        <li>
          <forkIcon.react tag="span" className="jp-cr-Lesson-step" />
          <span>
            <b>{trans.__('Fork')}</b>{' '}
            {trans.__(
              'to try another way in a copy, side by side with this one.'
            )}
          </span>
        </li>
      </ol>
    </div>
  );
}

/** A sentence in which code stands between backquotes. */
function Prose(props: { text: string }): JSX.Element {
  return (
    <>
      {pieces(props.text).map(({ text, isCode }, index) =>
        isCode ? <code key={index}>{text}</code> : text
      )}
    </>
  );
}

/** What the machine does not permit, with what can be done about it. */
export function Obstacles(props: {
  model: SnapshotModel;
  trans: TranslationBundle;
}): JSX.Element | null {
  const { model, trans } = props;
  const { capabilities } = model;
  if (
    !capabilities ||
    (capabilities.can_checkpoint && capabilities.can_restore)
  ) {
    return null;
  }
  const title = !capabilities.can_checkpoint
    ? trans.__('Kernels cannot be snapshotted on this machine.')
    : trans.__(
        'Snapshots can be taken on this machine, but not restored or forked.'
      );
  return (
    <div className="jp-cr-Notice" role="alert">
      <b>{title}</b>
      {obstacles(capabilities).map(({ advice, names, details }) => (
        <p key={advice} title={details.join('\n')}>
          <Prose text={advice} /> ({names.join(', ')})
        </p>
      ))}
    </div>
  );
}

/** Why there is no list. */
export function Trouble(props: {
  model: SnapshotModel;
  trans: TranslationBundle;
}): JSX.Element {
  const { model, trans } = props;
  const problem = model.problem!;
  return (
    <div className="jp-cr-Notice" role="alert">
      {problem.isMissing ? (
        <>
          <b>{trans.__('This server cannot take snapshots yet.')}</b>
          <p>
            {trans.__(
              'Install jupyter-cr in the environment of the server (pip install jupyter-cr) and start the server again.'
            )}
          </p>
        </>
      ) : (
        <>
          <b>{problem.message}</b>
          {problem.hint && <p>{problem.hint}</p>}
        </>
      )}
      <button className="jp-cr-Link" onClick={() => void model.refresh()}>
        {trans.__('Try again')}
      </button>
    </div>
  );
}
