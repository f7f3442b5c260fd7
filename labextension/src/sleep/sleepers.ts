import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';

import type { SnapshotModel } from '../model';
import type { IPlace, Targets } from '../targets';
import type { ISnapshot, ISnapshotEvent } from '../types';

/** What to do with a kernel that hibernates: go on with it, or end it and start afresh. */
export type Instead = 'resume' | 'restart' | 'nothing';

/** What is known of an open notebook or console and its kernel. */
interface ISleeper {
  place: IPlace;
  /** The kernel that it has, or had last. */
  kernelId: string;
  /** Somebody is having a kernel started for it. */
  isStarting: boolean;
  /** Somebody has tried to. */
  wasStarted: boolean;
  /** We are having it connected with a kernel. */
  connecting: Promise<boolean> | null;
  /** Those who want to run something wait for that. */
  waking: Promise<boolean> | null;
  /** In which its kernel hibernates. */
  snapshot: ISnapshot | undefined;
}

/**
 * Open notebooks and consoles whose kernels hibernate, whoever has had them do so.
 *
 * Which those are follows from what there is: no kernel, and a snapshot in which one
 * hibernates that was theirs. So every window shows the same, and so does one that has
 * missed an event.
 */
export class Sleepers {
  /**
   * @param whatInstead Asks what is wanted where somebody starts a kernel afresh in place
   * of one that hibernates.
   */
  constructor(
    private readonly model: SnapshotModel,
    targets: Targets,
    private readonly whatInstead: (snapshot: ISnapshot) => Promise<Instead>
  ) {
    for (const place of targets.places()) {
      this.follow(place);
    }
    targets.opened.connect((_, place) => this.follow(place));
    targets.changed.connect(this.look, this);
    model.changed.connect(this.look, this);
    model.happened.connect(this.onEvent, this);
  }

  /** Something sleeps, or does not any more, or is about to wake. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** The snapshot in which the kernel of a notebook or console hibernates. */
  of(widget: Widget): ISnapshot | undefined {
    return this.sleepers.get(widget)?.snapshot;
  }

  /** Whether its kernel is about to go on. */
  isWaking(widget: Widget): boolean {
    return !!this.sleepers.get(widget)?.connecting;
  }

  /** Those whose kernel hibernates in a snapshot. */
  in(snapshot: ISnapshot): IPlace[] {
    return [...this.sleepers.values()]
      .filter(sleeper => sleeper.snapshot?.name === snapshot.name)
      .map(({ place }) => place);
  }

  /**
   * Have the kernel of a notebook or console go on where it was.
   *
   * @returns Whether it does. If not, JupyterLab has told why.
   */
  async wake(widget: Widget): Promise<boolean> {
    const snapshot = this.of(widget);
    return snapshot !== undefined && this.connect(widget, snapshot.kernel_id);
  }

  /**
   * Connect a notebook or console with a kernel that runs, or hibernates.
   *
   * Not twice at once: JupyterLab shuts the first kernel down as soon as a second one is
   * asked for, and they may be the same.
   *
   * @returns Whether it is. If not, JupyterLab has told why.
   */
  async connect(widget: Widget, kernelId: string): Promise<boolean> {
    const sleeper = this.sleepers.get(widget);
    if (!sleeper) {
      return false;
    }
    const { sessionContext } = sleeper.place;
    if (sleeper.isStarting && !sleeper.connecting) {
      await hasStarted(sessionContext);
    }
    if (kernelOf(sleeper)?.id === kernelId) {
      return true;
    }
    const change = () => sessionContext.changeKernel({ id: kernelId });
    sleeper.connecting ??= Promise.resolve()
      // Not before `connecting` is set: it tells of its beginning at once.
      .then(() => this.model.during('resume', kernelId, change))
      .then(kernel => kernel?.id === kernelId)
      .catch(() => false)
      .finally(() => {
        sleeper.connecting = null;
        this.look();
        this.hasChanged.emit();
      });
    this.hasChanged.emit();
    return sleeper.connecting;
  }

  private follow(place: IPlace): void {
    const { widget, sessionContext } = place;
    const sleeper: ISleeper = {
      place,
      kernelId: '',
      isStarting: false,
      wasStarted: false,
      connecting: null,
      waking: null,
      snapshot: undefined
    };
    this.sleepers.set(widget, sleeper);
    this.guard(sleeper);
    widget.disposed.connect(() => this.sleepers.delete(widget));
    sessionContext.sessionChanged.connect(() => {
      if (!sessionContext.session && !this.isLettingGo) {
        // It may hibernate, and we have not been told: the server was started anew.
        this.ask();
      }
      this.look();
    });
    // It says so before it asks the server, and something else when that has answered.
    sessionContext.statusChanged.connect((_, status) => {
      sleeper.isStarting = status === 'starting' && !kernelOf(sleeper);
      sleeper.wasStarted ||= sleeper.isStarting;
      this.look();
    });
    this.look();
  }

  /** Ask the server for all snapshots, once for all who have lost their kernels. */
  private ask(): void {
    this.asking ??= this.model.refresh().finally(() => (this.asking = null));
  }

  private look(): void {
    let isChanged = false;
    for (const sleeper of this.sleepers.values()) {
      sleeper.kernelId = kernelOf(sleeper)?.id ?? sleeper.kernelId;
      const snapshot = this.find(sleeper);
      if (snapshot !== sleeper.snapshot) {
        isChanged = true;
        sleeper.snapshot = snapshot;
      }
    }
    if (isChanged) {
      this.hasChanged.emit();
    }
  }

  /** The snapshot in which the kernel hibernates. */
  private find(sleeper: ISleeper): ISnapshot | undefined {
    const { place, connecting, isStarting, wasStarted, kernelId } = sleeper;
    if (connecting) {
      return sleeper.snapshot;
    }
    const isSettled = wasStarted || place.sessionContext.isReady;
    if (kernelOf(sleeper) || isStarting || !isSettled) {
      return undefined;
    }
    const path = place.notebook?.context.path;
    const { hibernated } = this.model;
    return (
      hibernated.find(snapshot => snapshot.kernel_id === kernelId) ??
      hibernated.find(snapshot => snapshot.path === path)
    );
  }

  /**
   * As long as a kernel hibernates, to start one is to wake it. JupyterLab would have one
   * started for each cell of a *Run All*, and shut down all but the last: if they are one
   * and the same, it would be gone.
   */
  private guard(sleeper: ISleeper): void {
    const { widget, sessionContext } = sleeper.place;
    const start = sessionContext.startKernel.bind(sessionContext);
    const change = sessionContext.changeKernel.bind(sessionContext);
    // By *Restart*, or in the list of kernels: the server would resume the one that
    // hibernates, and somebody would work with variables that they think are gone.
    sessionContext.changeKernel = async options => {
      const { snapshot, connecting } = sleeper;
      const isSame = !options?.id && options?.name === snapshot?.kernel_name;
      if (!snapshot || connecting || !isSame) {
        return change(options);
      }
      const instead = await this.whatInstead(snapshot);
      if (instead === 'nothing' || !(await this.wake(widget))) {
        // Whatever was to be done with it is not to be done.
        throw new Error(`The kernel of ${sessionContext.name} hibernates`);
      }
      if (instead === 'restart') {
        await sessionContext.restartKernel();
      }
      return sessionContext.session?.kernel ?? null;
    };
    sessionContext.startKernel = async () => {
      if (!sleeper.connecting && !sleeper.snapshot) {
        return start();
      }
      // All wait for one and the same promise: so they go on in the order in which they
      // came, and cells are run in theirs.
      sleeper.waking ??= (sleeper.connecting ?? this.wake(widget)).finally(
        () => (sleeper.waking = null)
      );
      await sleeper.waking;
      // Nobody is to be asked for another kernel.
      return false;
    };
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    const { action, kernel_id } = event;
    for (const sleeper of this.sleepers.values()) {
      const { place, snapshot, isStarting, connecting } = sleeper;
      if (action === 'hibernated' && kernelOf(sleeper)?.id === kernel_id) {
        sleeper.kernelId = kernel_id!;
        // Not shut down: that would ask the server for the end of what has ended.
        this.isLettingGo = true;
        place.sessionContext.session?.dispose();
        this.isLettingGo = false;
      } else if (
        action === 'restored' &&
        (sleeper.kernelId === kernel_id || snapshot?.kernel_id === kernel_id) &&
        !kernelOf(sleeper) &&
        !isStarting &&
        !connecting
      ) {
        // Somebody else has woken it.
        void this.connect(place.widget, kernel_id!);
      }
    }
  }

  private readonly sleepers = new Map<Widget, ISleeper>();
  private asking: Promise<void> | null = null;
  private isLettingGo = false;
  private readonly hasChanged = new Signal<this, void>(this);
}

function kernelOf({ place }: ISleeper): Kernel.IKernelConnection | null {
  return place.sessionContext.session?.kernel ?? null;
}

/** Wait until a kernel has been started, or could not be. */
function hasStarted(context: ISessionContext): Promise<void> {
  return new Promise(resolve => {
    const look = (_: unknown, status: Kernel.Status) => {
      if (status !== 'starting') {
        context.statusChanged.disconnect(look);
        resolve();
      }
    };
    context.statusChanged.connect(look);
  });
}
