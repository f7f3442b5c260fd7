import type { TranslationBundle } from '@jupyterlab/translation';
import {
  caretDownIcon,
  caretRightIcon,
  deleteIcon,
  type LabIcon,
  runIcon,
  undoIcon
} from '@jupyterlab/ui-components';
import React, { useEffect, useRef } from 'react';

import {
  baseName,
  formatAge,
  formatBytes,
  formatTime,
  splitStamp
} from '../format';
import { forkIcon } from '../icons';
import { ROW_CLASS } from '../meant';
import {
  isBroken,
  isHibernated,
  isUsable,
  isWhole,
  type SnapshotModel
} from '../model';
import type { ISnapshot } from '../types';
import { Branch, widthOf } from './branch';
import { Details } from './details';
import type { IBranch } from './lineage';
import { HERE } from './whereabouts';

/** What is in memory for kernels of a lesson, whose snapshot is its parent. */
const FOR_LESSONS = 'for lessons';

/** A name that is cut off where least is lost: its age stands below. */
function Name(props: { name: string }): JSX.Element {
  const [base, stamp] = splitStamp(props.name);
  return (
    <>
      <span className="jp-cr-Item-base">{base}</span>
      {stamp && <span className="jp-cr-Item-stamp">{stamp}</span>}
    </>
  );
}

/** What can be done with a row. */
export interface IItemActions {
  restore: (snapshot: ISnapshot) => void;
  fork: (snapshot: ISnapshot) => void;
  remove: (snapshot: ISnapshot) => void;
  export: (snapshot: ISnapshot) => void;
  trust: (snapshot: ISnapshot) => void;
  compareWithNow: (snapshot: ISnapshot) => void;
  toggle: (name: string) => void;
  edit: (edited: IEdited | null) => void;
  /** Resolves to whether the server has taken it. */
  commit: (edited: IEdited, text: string) => Promise<boolean>;
}

/** The text that is being edited. */
export interface IEdited {
  name: string;
  field: 'name' | 'note';
}

interface IItemProps {
  snapshot: ISnapshot;
  /** How old it is, for people. */
  age: string;
  model: SnapshotModel;
  actions: IItemActions;
  isExpanded: boolean;
  edited: IEdited['field'] | null;
  /** Names of the notebooks of kernels that are at it, as `Whereabouts.at` says. */
  kernels: readonly string[];
  /** Name of what it grew from, or of the next above that is listed; or empty. */
  parent: string;
  canCompareWithNow: boolean;
  /** By lineage: where it stands there. */
  branch?: IBranch;
  canRestore: boolean;
  trans: TranslationBundle;
}

/** What a snapshot's row says to those who cannot see it. */
export function describe(
  snapshot: ISnapshot,
  parent: string,
  kernels: readonly string[],
  trans: TranslationBundle
): string {
  return [
    snapshot.name,
    snapshot.note,
    formatAge(snapshot.created),
    formatBytes(snapshot.bytes),
    stateOf(snapshot, trans),
    parent && trans.__('after %1', parent),
    ...kernels.map(name =>
      name === HERE
        ? trans.__('the kernel is here')
        : trans.__('the kernel of %1 is here', name)
    )
  ]
    .filter(Boolean)
    .join(', ');
}

/** The class of a snapshot's row. */
export function rowClass(
  snapshot: ISnapshot,
  isSelected: boolean,
  isMarked: boolean
): string {
  return [
    ROW_CLASS,
    'jp-cr-Item',
    isSelected ? 'jp-mod-selected' : '',
    isMarked ? 'jp-cr-mod-marked' : '',
    snapshot.automatic && !isHibernated(snapshot) ? 'jp-cr-mod-automatic' : '',
    isBroken(snapshot) ? 'jp-cr-mod-broken' : ''
  ]
    .filter(Boolean)
    .join(' ');
}

/**
 * A snapshot: what it is, what can be done with it, and what is inside. Made anew only if
 * it has changed, however far the list is scrolled.
 */
export const Item = React.memo((props: IItemProps): JSX.Element => {
  const { snapshot, parent, actions, branch, isExpanded, edited, trans } =
    props;
  const { name } = snapshot;
  const canBringBack = props.canRestore && isUsable(snapshot);
  const facts = [
    <time
      key="age"
      dateTime={snapshot.created}
      title={formatTime(snapshot.created)}
    >
      {props.age}
    </time>,
    <span
      key="bytes"
      title={trans.__(
        'On disk: %1 that were new with it, %2 that it has from earlier ones',
        formatBytes(snapshot.own),
        formatBytes(snapshot.shared)
      )}
    >
      {formatBytes(snapshot.bytes)}
    </span>
  ];
  if (snapshot.processes > 1 && snapshot.automatic !== 'before restore') {
    facts.push(
      <span key="processes">
        {trans._n('%1 process', '%1 processes', snapshot.processes)}
      </span>
    );
  }
  const state = stateOf(snapshot, trans);
  if (state) {
    facts.push(
      <span
        key="state"
        className="jp-cr-State"
        title={snapshot.problem || reasonOf(snapshot, trans)}
      >
        {state}
      </span>
    );
  }
  if (branch?.path) {
    facts.push(
      <span key="path" title={branch.path}>
        {trans.__('in %1', baseName(branch.path))}
      </span>
    );
  }
  // By lineage, the lines tell of it; unless it is left out.
  if (parent && (!branch || branch.isGap || branch.from === null)) {
    facts.push(
      <span
        key="parent"
        title={trans.__('What the kernel was at when this was taken')}
      >
        {trans.__('after %1', parent)}
      </span>
    );
  }
  const indent = { marginLeft: widthOf(branch) };
  return (
    <>
      {branch && <Branch branch={branch} isHere={props.kernels.length > 0} />}
      <div className="jp-cr-Item-main" style={indent} title={tooltip(snapshot)}>
        <Caret
          isExpanded={isExpanded}
          label={
            isExpanded
              ? trans.__('Hide what is inside')
              : trans.__('Show what is inside')
          }
          onClick={() => actions.toggle(name)}
        />
        <div className="jp-cr-Item-body">
          <div className="jp-cr-Item-title">
            {edited === 'name' ? (
              <Editor
                text={name}
                label={trans.__('Name of the snapshot')}
                commit={text => actions.commit({ name, field: 'name' }, text)}
                close={() => actions.edit(null)}
              />
            ) : (
              <span
                className="jp-cr-Item-name"
                title={trans.__(
                  '%1 (double-click to rename)',
                  tooltip(snapshot)
                )}
                onDoubleClick={event => {
                  event.stopPropagation();
                  actions.edit({ name, field: 'name' });
                }}
              >
                <Name name={name} />
              </span>
            )}
            {props.kernels.map(name => (
              <span
                key={name}
                className="jp-cr-Badge jp-cr-mod-here"
                title={
                  name === HERE
                    ? trans.__(
                        'What the kernel was last saved as, or brought back to'
                      )
                    : trans.__(
                        'What the kernel of %1 was last saved as, or brought back to',
                        name
                      )
                }
              >
                {name === HERE ? trans.__('here') : name}
              </span>
            ))}
            {snapshot.tags.map(tag => (
              <span className="jp-cr-Badge" key={tag}>
                {tag}
              </span>
            ))}
          </div>
          {edited === 'note' ? (
            <Editor
              text={snapshot.note}
              label={trans.__('Note')}
              placeholder={trans.__('Note')}
              mayBeEmpty
              commit={text => actions.commit({ name, field: 'note' }, text)}
              close={() => actions.edit(null)}
            />
          ) : snapshot.note ? (
            <div
              className="jp-cr-Item-note"
              title={trans.__('Double-click to edit the note')}
              onDoubleClick={event => {
                event.stopPropagation();
                actions.edit({ name, field: 'note' });
              }}
            >
              {snapshot.note}
            </div>
          ) : null}
          <div className="jp-cr-Meta">
            {facts.map((fact, index) => (
              <React.Fragment key={fact.key}>
                {index > 0 && ' · '}
                {fact}
              </React.Fragment>
            ))}
          </div>
        </div>
        {!edited && (
          <div className="jp-cr-Item-actions">
            <IconButton
              icon={isHibernated(snapshot) ? runIcon : undoIcon}
              label={
                isHibernated(snapshot)
                  ? trans.__('Resume: have the kernel go on from “%1”', name)
                  : trans.__('Restore: bring the kernel back to “%1”', name)
              }
              isEnabled={canBringBack}
              onClick={() => actions.restore(snapshot)}
            />
            <IconButton
              icon={forkIcon}
              label={trans.__('Fork: open a copy that goes on from “%1”', name)}
              isEnabled={canBringBack}
              onClick={() => actions.fork(snapshot)}
            />
            <IconButton
              icon={deleteIcon}
              label={trans.__('Delete “%1”', name)}
              isEnabled
              onClick={() => actions.remove(snapshot)}
            />
          </div>
        )}
      </div>
      {isExpanded && (
        <div className="jp-cr-Item-inside" style={indent}>
          {snapshot.problem && (
            <div className="jp-cr-mod-problem">{snapshot.problem}</div>
          )}
          {isWhole(snapshot) && !snapshot.trusted && (
            <div className="jp-cr-Untrusted">
              {trans.__(
                'It came from elsewhere. To restore or fork it is to run its code.'
              )}{' '}
              <Link
                text={trans.__('Trust…')}
                onClick={() => actions.trust(snapshot)}
              />
            </div>
          )}
          <div className="jp-cr-Links">
            {edited !== 'note' && !snapshot.note && (
              <Link
                text={trans.__('Add a note')}
                onClick={() => actions.edit({ name, field: 'note' })}
              />
            )}
            {props.canCompareWithNow && (
              <Link
                text={trans.__('Compare with now')}
                title={trans.__('Show what has changed in the kernel since')}
                onClick={() => actions.compareWithNow(snapshot)}
              />
            )}
            {isWhole(snapshot) && (
              <Link
                text={trans.__('Export')}
                title={trans.__('Save it as one file, to be carried elsewhere')}
                onClick={() => actions.export(snapshot)}
              />
            )}
          </div>
          {!snapshot.problem && (
            <Details name={name} model={props.model} trans={trans} />
          )}
        </div>
      )}
    </>
  );
});

/** What tells snapshots of a notebook from each other. */
function tooltip({ name, cell }: ISnapshot): string {
  return cell ? `${name}\n${cell}` : name;
}

/** What is to be known of a snapshot beside that it is there. */
function stateOf(snapshot: ISnapshot, trans: TranslationBundle): string {
  switch (snapshot.state) {
    case 'corrupt':
      return trans.__('damaged');
    case 'future':
      return trans.__('from a later release');
    case 'locked':
      return trans.__('encrypted, and its key is missing');
    case 'saving':
    case 'live':
      return trans.__('saving, %1%', Math.round(100 * snapshot.saved));
    case 'memory':
      return snapshot.automatic === FOR_LESSONS
        ? trans.__('lesson “%1”, in memory only', snapshot.parent)
        : trans.__('in memory only');
    case 'warm':
    case 'durable':
      if (!snapshot.trusted) {
        return trans.__('not trusted');
      }
      if (snapshot.state === 'warm') {
        return trans.__('in memory');
      }
  }
  return isHibernated(snapshot)
    ? trans.__('hibernating')
    : snapshot.automatic
      ? trans.__('kept')
      : '';
}

/** Why a snapshot is there that nobody asked for, or cannot be used yet. */
function reasonOf(snapshot: ISnapshot, trans: TranslationBundle): string {
  if (!snapshot.trusted) {
    return trans.__(
      'It came from elsewhere, and to restore it is to run its code: you are asked first'
    );
  }
  switch (snapshot.automatic) {
    case 'before restore':
      return trans.__(
        'Kept when the kernel was brought back to another snapshot'
      );
    case 'hibernated':
      return trans.__('The kernel was ended then, and goes on from here');
    case FOR_LESSONS:
      return trans.__(
        'All kernels of the lesson are forked from it, so that they share its memory'
      );
    default:
      return snapshot.automatic;
  }
}

/** Opens and closes what is below. */
export function Caret(props: {
  isExpanded: boolean;
  label: string;
  onClick: () => void;
}): JSX.Element {
  const icon = props.isExpanded ? caretDownIcon : caretRightIcon;
  return (
    <button
      className="jp-cr-Caret"
      tabIndex={-1}
      aria-label={props.label}
      onClick={event => {
        event.stopPropagation();
        props.onClick();
      }}
    >
      <icon.react tag="span" />
    </button>
  );
}

/** A button in words, inside a row. */
function Link(props: {
  text: string;
  title?: string;
  onClick: () => void;
}): JSX.Element {
  return (
    <button
      className="jp-cr-Link"
      tabIndex={-1}
      title={props.title}
      onClick={event => {
        event.stopPropagation();
        props.onClick();
      }}
      onDoubleClick={event => event.stopPropagation()}
    >
      {props.text}
    </button>
  );
}

function IconButton(props: {
  icon: LabIcon;
  label: string;
  isEnabled: boolean;
  onClick: () => void;
}): JSX.Element {
  return (
    <button
      className="jp-cr-Action"
      tabIndex={-1}
      title={props.label}
      aria-label={props.label}
      disabled={!props.isEnabled}
      onClick={event => {
        event.stopPropagation();
        props.onClick();
      }}
      onDoubleClick={event => event.stopPropagation()}
    >
      <props.icon.react tag="span" />
    </button>
  );
}

/** A text that is edited in place: Enter and leaving it commit, Escape does not. */
function Editor(props: {
  text: string;
  label: string;
  placeholder?: string;
  mayBeEmpty?: boolean;
  commit: (text: string) => Promise<boolean>;
  close: () => void;
}): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  const isDone = useRef(false);

  useEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);

  const commit = async () => {
    const text = input.current?.value.trim() ?? '';
    if (isDone.current) {
      return;
    }
    isDone.current = true;
    const isChanged = text !== props.text && (text || props.mayBeEmpty);
    if (!isChanged || (await props.commit(text))) {
      props.close();
    } else {
      isDone.current = false;
      input.current?.focus();
    }
  };
  return (
    <input
      ref={input}
      className="jp-cr-Editor jp-mod-styled"
      defaultValue={props.text}
      aria-label={props.label}
      placeholder={props.placeholder}
      spellCheck={false}
      onBlur={() => void commit()}
      onClick={event => event.stopPropagation()}
      onDoubleClick={event => event.stopPropagation()}
      onKeyDown={event => {
        event.stopPropagation();
        if (event.key === 'Enter') {
          void commit();
        } else if (event.key === 'Escape') {
          isDone.current = true;
          props.close();
        }
      }}
    />
  );
}
