import type { TranslationBundle } from '@jupyterlab/translation';
import {
  fileUploadIcon,
  historyIcon,
  type LabIcon,
  runIcon,
  treeViewIcon
} from '@jupyterlab/ui-components';
import React from 'react';

import type { Actions } from '../actions';
import type { Bundles } from '../bundles/bundles';
import { baseName } from '../format';
import { cameraIcon, moonIcon } from '../icons';
import type { SnapshotModel } from '../model';
import type { IPreferences, Settings } from '../settings';
import type { ITarget } from '../targets';
import type { ISnapshot } from '../types';

interface IButtonProps {
  model: SnapshotModel;
  actions: Actions;
  trans: TranslationBundle;
}

/** The button at the top: the same as in the notebook's toolbar, with words. */
export function SnapshotButton(
  props: IButtonProps & { target: ITarget | null }
): JSX.Element {
  const { target, model, actions, trans } = props;
  const activity = target && model.activity(target.kernelId);
  const percent = Math.round((activity?.fraction ?? 0) * 100);
  const name = target ? nameOf(target) : '';
  return (
    <button
      className="jp-cr-Button jp-mod-styled jp-mod-accept"
      disabled={!target || !!activity || !model.canCheckpoint}
      title={
        target
          ? trans.__('Snapshot the kernel of %1', name)
          : trans.__('Open a notebook first')
      }
      onClick={() => target && void actions.snapshot(target)}
    >
      <cameraIcon.react tag="span" className="jp-cr-Button-icon" />
      <span className="jp-cr-Button-label">
        {activity
          ? percent
            ? trans.__('%1 %', percent)
            : trans.__('One moment…')
          : name
            ? trans.__('Snapshot %1', name)
            : trans.__('Snapshot Kernel')}
      </span>
    </button>
  );
}

/** Beside it, since it is for the same kernel, but not as often wanted. */
export function HibernateButton(
  props: IButtonProps & { target: ITarget | null }
): JSX.Element {
  const { target, model, actions, trans } = props;
  const isPossible =
    target !== null &&
    !model.activity(target.kernelId) &&
    model.canCheckpoint &&
    model.canRestore;
  const label = target
    ? trans.__('Hibernate the kernel of %1: save and end it', nameOf(target))
    : trans.__('Open a notebook first');
  return (
    <button
      className="jp-cr-Button jp-cr-mod-narrow jp-mod-styled jp-mod-reject"
      disabled={!isPossible}
      title={label}
      aria-label={label}
      onClick={() => target && void actions.hibernate(target)}
    >
      <moonIcon.react tag="span" className="jp-cr-Button-icon" />
    </button>
  );
}

/** In place of both, where the kernel hibernates. */
export function ResumeButton(
  props: IButtonProps & { snapshot: ISnapshot }
): JSX.Element {
  const { snapshot, model, actions, trans } = props;
  const name = baseName(snapshot.path) || snapshot.kernel_name;
  return (
    <button
      className="jp-cr-Button jp-mod-styled jp-mod-accept"
      disabled={!!model.activity(snapshot.kernel_id) || !model.canRestore}
      title={trans.__('Have the kernel of %1 go on where it was', name)}
      onClick={() => void actions.resume(snapshot)}
    >
      <runIcon.react tag="span" className="jp-cr-Button-icon" />
      <span className="jp-cr-Button-label">{trans.__('Resume %1', name)}</span>
    </button>
  );
}

/** At the end of that line: snapshots that others have made. */
export function ImportButton(props: {
  model: SnapshotModel;
  bundles: Bundles;
  trans: TranslationBundle;
}): JSX.Element {
  const { model, bundles, trans } = props;
  const label = trans.__('Import a snapshot from a file, or drop it here');
  return (
    <button
      className="jp-cr-Button jp-cr-mod-narrow jp-mod-styled jp-mod-reject"
      disabled={model.problem !== null}
      title={label}
      aria-label={label}
      onClick={() => bundles.choose()}
    >
      <fileUploadIcon.react tag="span" className="jp-cr-Button-icon" />
    </button>
  );
}

/** Which order the list is in; it stays what was chosen. */
export function OrderButtons(props: {
  settings: Settings;
  trans: TranslationBundle;
}): JSX.Element {
  const { settings, trans } = props;
  const orders: [IPreferences['panelOrder'], LabIcon, string][] = [
    ['time', historyIcon, trans.__('By time: newest first')],
    ['lineage', treeViewIcon, trans.__('By lineage: what grew from what')]
  ];
  return (
    <div
      className="jp-cr-Orders"
      role="group"
      aria-label={trans.__('Order of the snapshots')}
    >
      {orders.map(([order, icon, label]) => (
        <button
          key={order}
          className="jp-cr-Order"
          aria-pressed={settings.now.panelOrder === order}
          aria-label={label}
          title={label}
          onClick={() => void settings.set('panelOrder', order)}
        >
          <icon.react tag="span" className="jp-cr-Button-icon" />
        </button>
      ))}
    </div>
  );
}

function nameOf({ notebook, widget }: ITarget): string {
  return baseName(notebook?.context.path ?? widget.title.label);
}
