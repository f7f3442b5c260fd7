import type { TranslationBundle } from '@jupyterlab/translation';
import React, { useEffect, useState } from 'react';

import type { SnapshotError } from '../api';
import { formatBytes, formatDuration, formatTime } from '../format';
import type { SnapshotModel } from '../model';
import type { ICell, IDescriptor, IProcess, ISnapshotDetails } from '../types';

/** How many files of a process are listed before the rest is asked for. */
const MAX_FILES = 8;

/** Kinds of descriptors that people know as files. */
const FILES = new Set(['regular_file', 'deleted_file', 'directory', 'fifo']);

/**
 * What is inside a snapshot: its processes, as they descend from each other, and their
 * files.
 */
export function Details(props: {
  name: string;
  model: SnapshotModel;
  trans: TranslationBundle;
}): JSX.Element {
  const { name, model, trans } = props;
  const [details, setDetails] = useState<ISnapshotDetails | null>(null);
  const [problem, setProblem] = useState<SnapshotError | null>(null);

  useEffect(() => {
    let isWanted = true;
    model.details(name).then(
      found => isWanted && setDetails(found),
      (error: SnapshotError) => isWanted && setProblem(error)
    );
    return () => {
      isWanted = false;
    };
  }, [name, model]);

  if (problem) {
    return (
      <div className="jp-cr-Details jp-cr-mod-problem" role="alert">
        {problem.message} {problem.hint}
      </div>
    );
  }
  if (!details) {
    return <div className="jp-cr-Details">{trans.__('Looking inside…')}</div>;
  }
  const { content, header, outcome } = details;
  const facts: [string, React.ReactNode][] = [
    [trans.__('Taken'), formatTime(header.created)],
    [trans.__('Memory'), formatBytes(content.stored)]
  ];
  if (outcome) {
    facts.push([trans.__('Paused for'), formatDuration(outcome.downtime_ms)]);
  }
  const { last_cell, running_cell, running } = header.notebook;
  if (last_cell) {
    facts.push([
      trans.__('Last cell'),
      <Cell prompt={String(last_cell.number)} cell={last_cell} />
    ]);
  }
  if (running_cell) {
    facts.push([
      trans.__('Running then'),
      <Cell prompt="*" cell={running_cell} />
    ]);
  }
  const cells = running.filter(request => request.cell_id);
  const others = cells.length - (running_cell ? 1 : 0);
  if (others > 0) {
    facts.push([
      running_cell ? trans.__('Waiting then') : trans.__('Running then'),
      trans._n('%1 cell', '%1 cells', others)
    ]);
  }
  return (
    <div className="jp-cr-Details">
      <dl>
        {facts.map(([term, value]) => (
          <React.Fragment key={term}>
            <dt>{term}</dt>
            <dd>{value}</dd>
          </React.Fragment>
        ))}
      </dl>
      <h4>
        {trans._n('%1 process', '%1 processes', content.processes.length)}
      </h4>
      <Family processes={content.processes} trans={trans} />
    </div>
  );
}

/** A cell, as its notebook shows it. */
function Cell(props: { prompt: string; cell: ICell }): JSX.Element {
  const { source } = props.cell;
  return (
    <code className="jp-cr-Cell" title={source}>
      <span className="jp-cr-Cell-prompt">[{props.prompt}]</span> {source}
    </code>
  );
}

/** Processes below those of whom they are children. */
function Family(props: {
  processes: readonly IProcess[];
  parent?: number;
  trans: TranslationBundle;
}): JSX.Element {
  const { processes, parent, trans } = props;
  const pids = new Set(processes.map(process => process.pid));
  const members = processes.filter(process =>
    parent === undefined ? !pids.has(process.ppid) : process.ppid === parent
  );
  return (
    <ul>
      {members.map(process => (
        <li key={process.pid}>
          <Process process={process} trans={trans} />
          {processes.some(other => other.ppid === process.pid) && (
            <Family processes={processes} parent={process.pid} trans={trans} />
          )}
        </li>
      ))}
    </ul>
  );
}

function Process(props: {
  process: IProcess;
  trans: TranslationBundle;
}): JSX.Element {
  const { process, trans } = props;
  const [showsAll, setShowsAll] = useState(false);
  const files = filesOf(process.descriptors);
  const shown = showsAll ? files : files.slice(0, MAX_FILES);
  const memory = process.memory.reduce((sum, kind) => sum + kind.stored, 0);
  const others = process.descriptors.length - files.length;
  const facts = [
    trans._n('%1 thread', '%1 threads', process.threads.length),
    formatBytes(memory),
    ...(others > 0
      ? [trans._n('%1 socket or the like', '%1 sockets and the like', others)]
      : [])
  ];
  return (
    <>
      <div className="jp-cr-Process" title={process.command.join(' ')}>
        <span className="jp-cr-Process-name">{process.name}</span>
        <span className="jp-cr-Process-pid">{process.pid}</span>
        {process.state !== 'running' && (
          <span className="jp-cr-Badge">{process.state}</span>
        )}
      </div>
      <div className="jp-cr-Meta">{facts.join(' · ')}</div>
      {shown.map(path => (
        <div className="jp-cr-File" key={path} title={path}>
          <bdi>{path}</bdi>
        </div>
      ))}
      {files.length > shown.length && (
        <button
          className="jp-cr-Link"
          tabIndex={-1}
          onClick={event => {
            event.stopPropagation();
            setShowsAll(true);
          }}
        >
          {trans._n(
            '%1 more file',
            '%1 more files',
            files.length - shown.length
          )}
        </button>
      )}
    </>
  );
}

/** Paths of files that are open, each once; without the one by which a kernel is known. */
function filesOf(descriptors: readonly IDescriptor[]): string[] {
  const paths = descriptors
    .filter(descriptor => FILES.has(descriptor.kind))
    // Where it reads or writes next is of no interest here.
    .map(descriptor => descriptor.what.replace(/ at \d+ of \d+$/, ''));
  return [...new Set(paths)].filter(path => path !== 'memfd jupyter-cr');
}
