import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { IConsoleTracker } from '@jupyterlab/console';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Token } from '@lumino/coreutils';

import { Actions } from './actions';
import { Bundles } from './bundles/bundles';
import { addBundleCommands, BundleCommandIDs } from './bundles/commands';
import { Trust } from './bundles/trust';
import { addComparisonCommands, ComparisonIDs } from './comparison/commands';
import { Comparisons } from './comparison/comparisons';
import { addCommands, CommandIDs, snapshotButton } from './commands';
import { Meant } from './meant';
import { SnapshotModel } from './model';
import { Notices } from './notices';
import { SnapshotPanel } from './panel/panel';
import { addRestoreCard } from './launcher';
import { addSleepCards } from './sleep/cards';
import { askWhatInstead } from './sleep/instead';
import { addSleepNotices } from './sleep/notice';
import { RunningSleepers } from './sleep/running';
import { Sleepers } from './sleep/sleepers';
import { ResumedCells } from './resumed/cells';
import { RunningSnapshots } from './running';
import { Settings } from './settings';
import { StatusItem } from './status';
import { Targets } from './targets';
import { addLessonCards } from './teaching/cards';
import {
  addTeachingCommands,
  resetButton,
  TeachingCommandIDs
} from './teaching/commands';
import { Lessons } from './teaching/lessons';
import { Teaching } from './teaching/teaching';
import { addTimelineBars } from './timeline/bar';
import {
  addTimelineCommands,
  timelineButton,
  TimelineIDs
} from './timeline/commands';
import { addTimelineNotices } from './timeline/crash';
import { Marks } from './timeline/marks';
import { Recorder } from './timeline/recorder';
import { Timelines } from './timeline/timelines';
import { Travels } from './timeline/travels';
import { addTrialCommands, TrialIDs } from './trial/commands';
import { Trials } from './trial/trials';

/** What the other plugins stand on. */
export interface ISnapshots {
  model: SnapshotModel;
  actions: Actions;
  targets: Targets;
  sleepers: Sleepers;
  settings: Settings;
  lessons: Lessons;
}

/** What the other plugins stand on. */
export const ISnapshots = new Token<ISnapshots>(
  'jupyter-cr:ISnapshots',
  'Snapshots of kernels: what there is, and what can be done with it.'
);

const TRANSLATION_DOMAIN = 'jupyter_cr';

/**
 * Commands and panel; by its settings also toolbars, menus and shortcuts.
 */
const plugin: JupyterFrontEndPlugin<ISnapshots> = {
  id: 'jupyter-cr:plugin',
  description: 'Snapshots of kernels: commands, toolbar button, panel.',
  autoStart: true,
  provides: ISnapshots,
  requires: [IDocumentManager],
  optional: [
    INotebookTracker,
    IConsoleTracker,
    ISettingRegistry,
    ITranslator,
    ICommandPalette,
    ILayoutRestorer,
    IToolbarWidgetRegistry
  ],
  activate: (
    app: JupyterFrontEnd,
    docManager: IDocumentManager,
    notebooks: INotebookTracker | null,
    consoles: IConsoleTracker | null,
    settingRegistry: ISettingRegistry | null,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    toolbars: IToolbarWidgetRegistry | null
  ): ISnapshots => {
    const trans = (translator ?? nullTranslator).load(TRANSLATION_DOMAIN);
    const { commands, serviceManager, shell } = app;
    const model = new SnapshotModel(serviceManager);
    const targets = new Targets(shell, notebooks, consoles);
    const sleepers = new Sleepers(model, targets, snapshot =>
      askWhatInstead(snapshot, trans)
    );
    const settings = new Settings();
    const notices = new Notices(trans, () => settings.now.notifySuccess);
    const trust = new Trust(model, notices, trans);
    const bundles = new Bundles(model, trust, notices, trans);
    const actions = new Actions({
      model,
      targets,
      sleepers,
      settings,
      shell,
      docManager,
      commands,
      trans,
      services: serviceManager,
      notices,
      trust
    });
    const lessons = new Lessons(model);
    const teaching = new Teaching(
      model,
      lessons,
      notices,
      docManager,
      sleepers,
      trans
    );
    const comparisons = new Comparisons(shell, model, actions, targets, trans);
    const trials = new Trials({
      shell,
      model,
      actions,
      targets,
      settings,
      services: serviceManager,
      notices,
      trans
    });
    const panel = new SnapshotPanel({
      model,
      actions,
      targets,
      sleepers,
      settings,
      services: serviceManager,
      bundles,
      comparisons,
      trust,
      lessons,
      teaching,
      trans
    });
    const showPanel = (snapshot?: string) => {
      shell.activateById(panel.id);
      if (snapshot) {
        panel.reveal(snapshot);
      }
    };
    actions.show = showPanel;
    bundles.show = showPanel;
    const meant = new Meant(app, model, targets);
    addTeachingCommands({
      commands,
      actions,
      model,
      targets,
      meant,
      lessons,
      teaching,
      trans
    });
    addBundleCommands({ commands, model, meant, bundles, trust, trans });
    addComparisonCommands({ commands, comparisons, model, meant, trans });
    addTrialCommands({ app, model, targets, trials, trans });
    addCommands({
      app,
      actions,
      model,
      targets,
      sleepers,
      meant,
      trans,
      showPanel,
      editName: name => {
        if (panel.isVisible) {
          panel.edit(name);
        }
        return panel.isVisible;
      }
    });
    const timelines = new Timelines(model, targets, settings);
    const travels = new Travels(model, targets, timelines, notices, trans);
    travels.show = showPanel;
    addTimelineCommands({ app, model, targets, timelines, travels, trans });
    addTimelineNotices(targets, timelines, travels, trans);
    addTimelineBars({ model, targets, timelines, travels, settings, trans });
    new Recorder(model, targets, timelines);
    new Marks(targets, timelines, travels, trans);
    for (const place of ['Notebook', 'ConsolePanel']) {
      toolbars?.addFactory(place, 'kernel-snapshot', widget =>
        snapshotButton(commands, widget)
      );
      toolbars?.addFactory(place, 'kernel-timeline', widget =>
        timelineButton(commands, widget)
      );
    }
    toolbars?.addFactory('Notebook', 'lesson-reset', widget =>
      resetButton(commands, widget)
    );
    new ResumedCells(model, targets, serviceManager.kernels);
    addSleepNotices(targets, sleepers, trans);

    const category = trans.__('Kernel Snapshots');
    for (const command of [
      ...Object.values(CommandIDs),
      ...Object.values(TimelineIDs),
      ...Object.values(ComparisonIDs),
      ...Object.values(TrialIDs),
      ...Object.values(BundleCommandIDs),
      TeachingCommandIDs.startHere,
      TeachingCommandIDs.reset,
      TeachingCommandIDs.publish
    ]) {
      palette?.addItem({ command, category, args: { isPalette: true } });
    }

    const addPanel = () => {
      shell.add(panel, settings.now.panelSide, {
        rank: 550,
        type: 'Kernel Snapshots'
      });
      restorer?.add(panel, panel.id);
    };
    if (settingRegistry) {
      settingRegistry
        .load(plugin.id)
        .then(loaded => settings.follow(loaded))
        .catch(reason => console.error('Settings of jupyter-cr', reason))
        .finally(addPanel);
    } else {
      addPanel();
    }
    void model.refresh();
    void app.restored.then(() => model.probe());
    void app.restored.then(() => lessons.refresh());
    return { model, actions, targets, sleepers, settings, lessons };
  }
};

/**
 * Beside kernels and terminals in the list of what runs.
 */
const running: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-cr:running',
  description: 'Snapshots of kernels in the list of what runs.',
  autoStart: true,
  requires: [ISnapshots],
  // Notebook 7 has none on some of its pages.
  optional: [IRunningSessionManagers, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    snapshots: ISnapshots,
    managers: IRunningSessionManagers | null,
    translator: ITranslator | null
  ) => {
    const { model, actions } = snapshots;
    const { kernels } = app.serviceManager;
    const trans = (translator ?? nullTranslator).load(TRANSLATION_DOMAIN);
    managers?.add(new RunningSleepers(model, actions, kernels, trans));
    managers?.add(new RunningSnapshots(model, actions, app.commands, trans));
  }
};

/**
 * In the status bar: how many there are, and what they cost.
 */
const status: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-cr:status',
  description: 'The number of snapshots of the kernel in the status bar.',
  autoStart: true,
  requires: [ISnapshots],
  // Notebook 7 has none on some of its pages.
  optional: [IStatusBar, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    snapshots: ISnapshots,
    statusBar: IStatusBar | null,
    translator: ITranslator | null
  ) => {
    const { model, settings, sleepers, targets } = snapshots;
    const trans = (translator ?? nullTranslator).load(TRANSLATION_DOMAIN);
    const open = () => void app.commands.execute(CommandIDs.showPanel);
    statusBar?.registerStatusItem(status.id, {
      item: new StatusItem(model, targets, sleepers, open, trans),
      align: 'left',
      rank: 4,
      isActive: () => settings.now.statusItem && model.snapshots.length > 0,
      activeStateChanged: model.changed
    });
  }
};

/**
 * In the launcher: go on with what was left.
 */
const launcher: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-cr:launcher',
  description: 'A card of the launcher that resumes a snapshot.',
  autoStart: true,
  requires: [ISnapshots],
  // Notebook 7 has none on some of its pages.
  optional: [ILauncher, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    snapshots: ISnapshots,
    launcher: ILauncher | null,
    translator: ITranslator | null
  ) => {
    const trans = (translator ?? nullTranslator).load(TRANSLATION_DOMAIN);
    if (launcher) {
      addRestoreCard(app.commands, launcher, snapshots.model, trans);
      addSleepCards(launcher, snapshots.model, trans);
      addLessonCards(launcher, snapshots.lessons, trans);
    }
  }
};

export default [plugin, running, status, launcher];
