import { ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import { SnapshotError } from '../api';
import { formatTime } from '../format';
import { diffIcon } from '../icons';
import type { IComparison } from '../types';
import { ComparisonView } from './view';

/** What is compared. */
export interface ICompared {
  title: string;
  /** When what is first was taken, ISO 8601. */
  before: string;
  /** The same of what is second; empty for now. */
  after: string;
  /** Does it. */
  compare: (signal: AbortSignal) => Promise<IComparison>;
}

/** A tab: how one snapshot differs from another, or from what runs. */
export class ComparisonTab extends ReactWidget {
  constructor(
    private readonly compared: ICompared,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-cr-Comparison');
    this.title.label = compared.title;
    this.title.caption = trans.__('Comparison: %1', compared.title);
    this.title.icon = diffIcon;
    this.title.closable = true;
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', this.title.caption);
    void this.begin();
  }

  dispose(): void {
    this.ending.abort();
    super.dispose();
  }

  protected render(): JSX.Element {
    const { compared, found, problem, trans } = this;
    const { title, before, after } = compared;
    return (
      <>
        <h1>{title}</h1>
        <p className="jp-cr-Section-note">
          {after
            ? trans.__(
                'Taken %1, and %2.',
                formatTime(before),
                formatTime(after)
              )
            : trans.__(
                'Taken %1, and the kernel as it was when this was opened.',
                formatTime(before)
              )}
        </p>
        <Progress isBusy={!found && !problem} trans={trans} />
        {problem && (
          <Failure
            problem={problem}
            retry={() => void this.begin()}
            trans={trans}
          />
        )}
        {found && (
          <ComparisonView comparison={found} isOfFork={false} trans={trans} />
        )}
      </>
    );
  }

  private async begin(): Promise<void> {
    this.problem = null;
    this.update();
    try {
      this.found = await this.compared.compare(this.ending.signal);
    } catch (error) {
      this.problem = error as SnapshotError;
    }
    this.update();
  }

  private found: IComparison | null = null;
  private problem: SnapshotError | null = null;
  private readonly ending = new AbortController();
}

/** Says that it takes a moment, and to those who do not see it, when it is there. */
export function Progress(props: {
  isBusy: boolean;
  trans: TranslationBundle;
}): JSX.Element {
  const { isBusy, trans } = props;
  return (
    <p className={isBusy ? 'jp-cr-Busy' : 'jp-cr-Unseen'} role="status">
      {isBusy
        ? trans.__('Comparing: variables, files and memory…')
        : trans.__('Compared.')}
    </p>
  );
}

/** What went wrong, and what to do about it. */
export function Failure(props: {
  problem: SnapshotError;
  retry: () => void;
  trans: TranslationBundle;
}): JSX.Element {
  const { problem, retry, trans } = props;
  return (
    <div className="jp-cr-Failure" role="alert">
      <p>
        {problem.message} {problem.hint}
      </p>
      <button className="jp-cr-Link" onClick={retry}>
        {trans.__('Try again')}
      </button>
    </div>
  );
}
