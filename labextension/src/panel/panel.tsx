import { ReactWidget } from '@jupyterlab/apputils';
import type { ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { InputGroup } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { type ISignal, Signal } from '@lumino/signaling';
import React, { useEffect, useMemo, useReducer, useState } from 'react';

import type { Actions } from '../actions';
import type { Bundles } from '../bundles/bundles';
import { acceptFiles } from '../bundles/drop';
import type { Trust } from '../bundles/trust';
import type { Comparisons } from '../comparison/comparisons';
import { cameraIcon } from '../icons';
import { isHibernated, type SnapshotModel } from '../model';
import type { Settings } from '../settings';
import type { Sleepers } from '../sleep/sleepers';
import type { Targets } from '../targets';
import type { Lessons } from '../teaching/lessons';
import { LessonsSection } from '../teaching/section';
import type { Teaching } from '../teaching/teaching';
import {
  HibernateButton,
  ImportButton,
  OrderButtons,
  ResumeButton,
  SnapshotButton
} from './buttons';
import { Lesson, Obstacles, Trouble } from './messages';
import { List } from './list';
import { familiesOf } from './lineage';
import { groupsOf, matches } from './rows';
import { Whereabouts } from './whereabouts';

/** How often ages are told anew, in ms. */
const AGING_MS = 20000;

/** What the panel is made of. */
export interface IPanelParts {
  model: SnapshotModel;
  actions: Actions;
  targets: Targets;
  sleepers: Sleepers;
  settings: Settings;
  services: ServiceManager.IManager;
  bundles: Bundles;
  comparisons: Comparisons;
  trust: Trust;
  lessons: Lessons;
  teaching: Teaching;
  trans: TranslationBundle;
}

/** A snapshot that is to be shown, or to have its name edited. */
interface IRequest {
  kind: 'show' | 'edit';
  name: string;
}

/**
 * The side panel: what there is to go back to.
 */
export class SnapshotPanel extends ReactWidget {
  constructor(private readonly parts: IPanelParts) {
    super();
    const { trans } = parts;
    this.id = 'jupyter-cr-panel';
    this.addClass('jp-cr-Panel');
    this.title.icon = cameraIcon;
    this.title.caption = trans.__('Kernel Snapshots');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Kernel Snapshots'));
    acceptFiles(
      this.node,
      trans.__('Import snapshots'),
      files => void parts.bundles.import(files)
    );
  }

  /** Show a snapshot in the list; when it has come, if it is not there yet. */
  reveal(name: string): void {
    this.ask({ kind: 'show', name });
  }

  /** Have somebody edit the name of a snapshot, in place. */
  edit(name: string): void {
    this.ask({ kind: 'edit', name });
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    void this.parts.model.update();
    void this.parts.lessons.refresh();
    this.asked.emit(this.request);
  }

  protected render(): JSX.Element {
    return (
      <Content {...this.parts} asked={this.asked} initial={this.request} />
    );
  }

  private ask(request: IRequest): void {
    this.request = request;
    this.asked.emit(request);
  }

  private request: IRequest | null = null;
  private readonly asked = new Signal<this, IRequest | null>(this);
}

/** Render again when any of these tells of a change. */
function useSignals(...signals: ISignal<unknown, unknown>[]): number {
  const [version, bump] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const listen = () => bump();
    signals.forEach(signal => signal.connect(listen));
    return () => signals.forEach(signal => signal.disconnect(listen));
  }, signals);
  return version;
}

function Content(
  props: IPanelParts & {
    asked: ISignal<unknown, IRequest | null>;
    initial: IRequest | null;
  }
): JSX.Element {
  const { model, actions, targets, sleepers, settings, services } = props;
  const { bundles, comparisons, trust, trans, asked } = props;
  const [query, setQuery] = useState('');
  const [request, setRequest] = useState(props.initial);
  const [minute, age] = useReducer((count: number) => count + 1, 0);
  useSignals(
    model.changed,
    targets.changed,
    sleepers.changed,
    settings.changed,
    services.sessions.runningChanged
  );
  const whereabouts = useMemo(
    () => new Whereabouts(model, services),
    [model, services]
  );

  useEffect(() => {
    const timer = window.setInterval(age, AGING_MS);
    return () => window.clearInterval(timer);
  }, []);
  useEffect(() => {
    const listen = (_: unknown, request: IRequest | null) => {
      setRequest(request && { ...request });
      if (request) {
        setQuery('');
      }
    };
    asked.connect(listen);
    return () => {
      asked.disconnect(listen);
    };
  }, [asked]);

  const target = targets.last;
  const place = targets.lastPlace;
  const sleep = place && sleepers.of(place.widget);
  const kernelId = target?.kernelId ?? sleep?.kernel_id ?? '';
  const path = place?.notebook?.context.path ?? '';
  const { showAutomatic, panelOrder } = settings.now;
  const isByLineage = panelOrder === 'lineage';
  const { snapshots, parents } = model;
  const listed = useMemo(
    () =>
      snapshots.filter(
        snapshot =>
          showAutomatic || !snapshot.automatic || isHibernated(snapshot)
      ),
    [snapshots, showAutomatic]
  );
  const names = useMemo(
    () => new Set(listed.map(snapshot => snapshot.name)),
    [listed]
  );
  const groups = useMemo(() => {
    const shown = listed.filter(snapshot => matches(snapshot, query));
    const current = kernelId ? { kernelId, path } : null;
    return isByLineage
      ? familiesOf(shown, parents, current)
      : groupsOf(shown, current);
  }, [listed, parents, isByLineage, query, kernelId, path, minute]);

  return (
    <>
      <div className="jp-cr-Header">
        <div className="jp-cr-Buttons">
          {sleep ? (
            <ResumeButton
              snapshot={sleep}
              model={model}
              actions={actions}
              trans={trans}
            />
          ) : (
            <>
              <SnapshotButton
                target={target}
                model={model}
                actions={actions}
                trans={trans}
              />
              <HibernateButton
                target={target}
                model={model}
                actions={actions}
                trans={trans}
              />
            </>
          )}
          <ImportButton model={model} bundles={bundles} trans={trans} />
        </div>
        {(snapshots.length > 0 || query) && (
          <div className="jp-cr-Buttons">
            <InputGroup
              type="search"
              className="jp-cr-Search"
              value={query}
              placeholder={trans.__('Search snapshots')}
              aria-label={trans.__('Search snapshots')}
              rightIcon="ui-components:search"
              onChange={event => setQuery(event.currentTarget.value)}
            />
            <OrderButtons settings={settings} trans={trans} />
          </div>
        )}
      </div>
      <Obstacles model={model} trans={trans} />
      {model.problem ? (
        <Trouble model={model} trans={trans} />
      ) : groups.length > 0 ? (
        <List
          groups={groups}
          listed={names}
          isByLineage={isByLineage}
          model={model}
          whereabouts={whereabouts}
          kernelId={kernelId}
          actions={{
            restore: snapshot => void actions.restore(snapshot),
            fork: snapshot => void actions.fork(snapshot),
            remove: names => actions.delete(names),
            export: snapshot => bundles.export(snapshot),
            compare: (one, other) => comparisons.compare(one, other),
            compareWithNow: snapshot => comparisons.compareWithNow(snapshot),
            canCompareWithNow: snapshot =>
              comparisons.canCompareWithNow(snapshot),
            trust: snapshot => void trust.ask(snapshot),
            commit: ({ name, field }, text) =>
              field === 'name'
                ? actions.rename(name, text)
                : actions.annotate(name, text)
          }}
          request={request}
          trans={trans}
        />
      ) : query ? (
        <p className="jp-cr-Hint" role="status">
          {trans.__(
            'No snapshot has “%1” in its name, note, last cell or notebook.',
            query
          )}
        </p>
      ) : model.isLoaded && model.canCheckpoint ? (
        <Lesson trans={trans} />
      ) : null}
      <LessonsSection
        lessons={props.lessons}
        teaching={props.teaching}
        trans={trans}
      />
    </>
  );
}
