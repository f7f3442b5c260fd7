import { ReactWidget } from '@jupyterlab/apputils';
import { OutputArea } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Panel } from '@lumino/widgets';
import React from 'react';

import { Failure, Progress } from '../comparison/tab';
import { ComparisonView } from '../comparison/view';
import { formatDuration } from '../format';
import { forkIcon } from '../icons';
import type { Trial } from './trial';

/** What somebody decides about a trial. */
export interface IDecisions {
  adopt: () => void;
  discard: () => void;
}

/**
 * A tab: a cell that runs in a fork, what it prints and shows, and what it changes. To close
 * it is to throw the fork away.
 */
export class TrialTab extends Panel {
  constructor(options: {
    trial: Trial;
    /** Of the notebook. */
    name: string;
    rendermime: IRenderMimeRegistry;
    decisions: IDecisions;
    trans: TranslationBundle;
  }) {
    super();
    const { trial, name, rendermime, decisions, trans } = options;
    this.discard = decisions.discard;
    this.outputs = trial.outputs;
    this.addClass('jp-cr-Trial');
    this.addClass('jp-cr-Comparison');
    this.title.label = trans.__('Fork of %1', name);
    this.title.caption = trans.__('A cell of %1 in a fork of its kernel', name);
    this.title.icon = forkIcon;
    this.title.closable = true;
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', this.title.caption);
    this.addWidget(
      new Following(trial, () => (
        <Head trial={trial} name={name} decisions={decisions} trans={trans} />
      ))
    );
    this.area = new OutputArea({ model: trial.outputs, rendermime });
    this.area.addClass('jp-cr-Trial-outputs');
    this.addWidget(this.area);
    this.addWidget(
      new Following(trial, () => <Differences trial={trial} trans={trans} />)
    );
  }

  /** Where the outputs are. */
  readonly area: OutputArea;

  dispose(): void {
    super.dispose();
    this.outputs.dispose();
  }

  protected onCloseRequest(msg: Message): void {
    this.discard();
    super.onCloseRequest(msg);
    this.dispose();
  }

  protected onActivateRequest(msg: Message): void {
    super.onActivateRequest(msg);
    this.node.focus();
  }

  private readonly discard: () => void;
  private readonly outputs: IDisposable;
}

/** What is rendered again whenever a trial has changed. */
class Following extends ReactWidget {
  constructor(
    trial: Trial,
    private readonly content: () => JSX.Element
  ) {
    super();
    trial.changed.connect(() => this.update());
  }

  protected render(): JSX.Element {
    return this.content();
  }
}

function Head(props: {
  trial: Trial;
  name: string;
  decisions: IDecisions;
  trans: TranslationBundle;
}): JSX.Element {
  const { trial, name, decisions, trans } = props;
  const { phase, problem } = trial;
  const isRunning = phase === 'running';
  return (
    <>
      <h1>{trans.__('A cell of %1, in a fork', name)}</h1>
      <pre className="jp-cr-Source" tabIndex={0}>
        {trial.tried.source}
      </pre>
      <div className="jp-cr-Decisions">
        <button
          className="jp-mod-styled jp-mod-accept"
          disabled={phase !== 'done'}
          title={trans.__(
            'Put the fork in the place of the kernel, and the outputs below the cell'
          )}
          onClick={decisions.adopt}
        >
          {trans.__('Adopt')}
        </button>
        <button
          className="jp-mod-styled jp-mod-reject"
          disabled={phase === 'adopting'}
          title={trans.__(
            'Throw the fork away; kernel and notebook are as they were'
          )}
          onClick={decisions.discard}
        >
          {trans.__('Discard')}
        </button>
        {isRunning && (
          <button
            className="jp-mod-styled jp-mod-reject"
            title={trans.__('Interrupt the cell in the fork')}
            onClick={() => void trial.stop()}
          >
            {trans.__('Interrupt')}
          </button>
        )}
        <span className="jp-cr-Section-note" role="status">
          {stateOf(trial, trans)}
        </span>
      </div>
      {problem && (
        <p className="jp-cr-Failure" role="alert">
          {problem.message} {problem.hint}
        </p>
      )}
    </>
  );
}

function stateOf(trial: Trial, trans: TranslationBundle): string {
  switch (trial.phase) {
    case 'forking':
      return trans.__('Forking the kernel…');
    case 'running':
      return trans.__('Running. The kernel and the notebook stay as they are.');
    case 'done':
      return trans.__(
        'Done in %1. The kernel and the notebook are as they were.',
        formatDuration(trial.elapsed)
      );
    case 'raised':
      return trans.__(
        'The cell has failed, so it cannot be adopted. The kernel and the notebook are as they were.'
      );
    case 'adopting':
      return trans.__('Adopting…');
    case 'failed':
    case 'over':
      return '';
  }
}

function Differences(props: {
  trial: Trial;
  trans: TranslationBundle;
}): JSX.Element {
  const { trial, trans } = props;
  const { comparison, comparisonProblem, phase } = trial;
  if (phase === 'forking' || phase === 'running' || phase === 'failed') {
    return <></>;
  }
  return (
    <>
      <Progress isBusy={!comparison && !comparisonProblem} trans={trans} />
      {comparisonProblem && (
        <Failure
          problem={comparisonProblem}
          retry={() => void trial.compare()}
          trans={trans}
        />
      )}
      {comparison && (
        <ComparisonView comparison={comparison} isOfFork trans={trans} />
      )}
    </>
  );
}
