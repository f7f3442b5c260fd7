import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IComparison, IVariable, IVariableDifference } from '../types';
import {
  certainFirst,
  type Change,
  type IFileDifference,
  type INotable,
  kindOf,
  memoryRows,
  notable,
  SIGNS,
  wordOf
} from './facts';

interface IViewProps {
  comparison: IComparison;
  trans: TranslationBundle;
}

/** How one thing differs from another: sections that can be read, and walked by headings. */
export function ComparisonView(
  props: IViewProps & {
    /** Whether it is of a fork, which has no notebook, and none of its memory on disk. */
    isOfFork: boolean;
  }
): JSX.Element {
  const { comparison, isOfFork, trans } = props;
  return (
    <>
      <Variables comparison={comparison} trans={trans} />
      {!isOfFork && <Cells comparison={comparison} trans={trans} />}
      <Processes comparison={comparison} trans={trans} />
      {!isOfFork && <Memory comparison={comparison} trans={trans} />}
    </>
  );
}

function Section(props: {
  title: string;
  count?: number;
  children: React.ReactNode;
}): JSX.Element {
  return (
    <section className="jp-cr-Section">
      <h2>
        {props.title}
        {!!props.count && <span className="jp-cr-Count">{props.count}</span>}
      </h2>
      {props.children}
    </section>
  );
}

function Nothing(props: { text: string }): JSX.Element {
  return <p className="jp-cr-Section-note">{props.text}</p>;
}

function Mark(props: {
  change: Change;
  trans: TranslationBundle;
}): JSX.Element {
  const { change, trans } = props;
  return (
    <span className={`jp-cr-Change jp-cr-mod-${change}`}>
      <span aria-hidden className="jp-cr-Change-sign">
        {SIGNS[change]}
      </span>
      {wordOf(change, trans)}
    </span>
  );
}

function Variables({ comparison, trans }: IViewProps): JSX.Element {
  const { differences, same, problem, left_out } = comparison.variables;
  const others = [
    same > 0
      ? trans._n('%1 variable is the same.', '%1 variables are the same.', same)
      : '',
    left_out > 0
      ? trans._n(
          '%1 variable was not looked at, as there are too many.',
          '%1 variables were not looked at, as there are too many.',
          left_out
        )
      : ''
  ];
  const note = others.filter(Boolean).join(' ');
  return (
    <Section title={trans.__('Variables')} count={differences.length}>
      {problem ? (
        <Nothing text={problem} />
      ) : differences.length === 0 ? (
        <Nothing text={[trans.__('No variable differs.'), note].join(' ')} />
      ) : (
        <>
          <table className="jp-cr-Table">
            <caption className="jp-cr-Unseen">
              {trans.__('Variables that differ')}
            </caption>
            <thead>
              <tr>
                <th scope="col">{trans.__('Name')}</th>
                <th scope="col">{trans.__('Change')}</th>
                <th scope="col">{trans.__('Before')}</th>
                <th scope="col">{trans.__('After')}</th>
              </tr>
            </thead>
            <tbody>
              {certainFirst(differences).map(difference => (
                <Variable
                  key={difference.name}
                  difference={difference}
                  trans={trans}
                />
              ))}
            </tbody>
          </table>
          {note && <Nothing text={note} />}
        </>
      )}
    </Section>
  );
}

function Variable(props: {
  difference: IVariableDifference;
  trans: TranslationBundle;
}): JSX.Element {
  const { name, change, before, after } = props.difference;
  return (
    <tr>
      <th scope="row">
        <code>{name}</code>
      </th>
      <td>
        <Mark change={change} trans={props.trans} />
      </td>
      <td>{before && <Value variable={before} />}</td>
      <td>{after && <Value variable={after} />}</td>
    </tr>
  );
}

function Value({ variable }: { variable: IVariable }): JSX.Element {
  return (
    <>
      {variable.value && (
        <code className="jp-cr-Value" title={variable.value}>
          {variable.value}
        </code>
      )}
      <span className="jp-cr-Kind">{kindOf(variable)}</span>
    </>
  );
}

function Cells({ comparison, trans }: IViewProps): JSX.Element {
  const { cells, text, problem } = comparison.document;
  return (
    <Section title={trans.__('Notebook')} count={cells.length}>
      {problem && <Nothing text={problem} />}
      {!problem && cells.length === 0 && (
        <Nothing text={trans.__('The source of no cell differs.')} />
      )}
      {cells.length > 0 && (
        <ul className="jp-cr-Cells">
          {cells.map(cell => (
            <li key={cell.id}>
              <div className="jp-cr-Cells-head">
                <Mark change={cell.change} trans={trans} />
                <code>{cell.source || trans.__('(empty)')}</code>
              </div>
              {cell.diff.length > 0 && (
                <Lines lines={cell.diff} trans={trans} />
              )}
            </li>
          ))}
        </ul>
      )}
      {text && (
        <details className="jp-cr-Whole">
          <summary>{trans.__('Outputs and metadata, too')}</summary>
          <pre tabIndex={0}>{text}</pre>
        </details>
      )}
    </Section>
  );
}

const LINES: Record<string, Change> = { '+': 'added', '-': 'removed' };

function Lines(props: {
  lines: readonly string[];
  trans: TranslationBundle;
}): JSX.Element {
  return (
    <pre
      className="jp-cr-Lines"
      tabIndex={0}
      aria-label={props.trans.__('Lines that were removed and added')}
      role="group"
    >
      {props.lines.map((line, number) => (
        <span
          key={number}
          className={`jp-cr-Line jp-cr-mod-${LINES[line[0]] ?? 'same'}`}
        >
          {`${line}\n`}
        </span>
      ))}
    </pre>
  );
}

function Processes({ comparison, trans }: IViewProps): JSX.Element {
  const processes = notable(comparison.processes);
  return (
    <Section
      title={trans.__('Processes and files')}
      count={processes.length || undefined}
    >
      {processes.length === 0 ? (
        <Nothing
          text={trans.__('The same processes, with the same files open.')}
        />
      ) : (
        <ul className="jp-cr-Cells">
          {processes.map(process => (
            <Process key={process.pid} process={process} trans={trans} />
          ))}
        </ul>
      )}
    </Section>
  );
}

function Process(props: {
  process: INotable;
  trans: TranslationBundle;
}): JSX.Element {
  const { trans } = props;
  const { name, pid, change, state, threads, files } = props.process;
  const facts = [
    state && trans.__('it was %1 and is %2', state[0], state[1]),
    threads && trans.__('%1 threads became %2', threads[0], threads[1])
  ].filter(Boolean);
  return (
    <li>
      <div className="jp-cr-Cells-head">
        <Mark change={change} trans={trans} />
        <code>{name}</code>
        <span className="jp-cr-Kind">{trans.__('process %1', pid)}</span>
      </div>
      {facts.length > 0 && (
        <div className="jp-cr-Kind">{facts.join(' · ')}</div>
      )}
      {files.length > 0 && (
        <ul className="jp-cr-Files">
          {files.map(file => (
            <File key={`${file.fd} ${file.change}`} file={file} {...props} />
          ))}
        </ul>
      )}
    </li>
  );
}

function File(props: {
  file: IFileDifference;
  trans: TranslationBundle;
}): JSX.Element {
  const { file, trans } = props;
  const { change, path, before, after, fd } = file;
  const words = {
    added: trans.__('opened'),
    removed: trans.__('closed'),
    changed: trans.__('read or written')
  };
  return (
    <li>
      <span className={`jp-cr-Change jp-cr-mod-${change}`}>
        <span aria-hidden className="jp-cr-Change-sign">
          {SIGNS[change]}
        </span>
        {words[change]}
      </span>
      <code>{path}</code>
      <span className="jp-cr-Kind">
        {change === 'changed'
          ? trans.__('descriptor %1, from byte %2 to %3', fd, before, after)
          : trans.__('descriptor %1', fd)}
      </span>
    </li>
  );
}

function Memory({ comparison, trans }: IViewProps): JSX.Element {
  const { memory } = comparison;
  const rows = memoryRows(memory, trans);
  return (
    <Section title={trans.__('Memory')}>
      {memory.problem ? (
        <Nothing text={memory.problem} />
      ) : rows.length === 0 ? (
        <Nothing text={trans.__('There is no memory in both.')} />
      ) : (
        <table className="jp-cr-Table jp-cr-mod-narrow">
          <caption className="jp-cr-Unseen">
            {trans.__('Memory of processes that are in both')}
          </caption>
          <tbody>
            {rows.map(([term, size]) => (
              <tr key={term}>
                <th scope="row">{term}</th>
                <td className="jp-cr-Number">{size}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Section>
  );
}
