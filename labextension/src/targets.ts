import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ISessionContext } from '@jupyterlab/apputils';
import type { ConsolePanel, IConsoleTracker } from '@jupyterlab/console';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { type ISignal, Signal } from '@lumino/signaling';

/** A notebook or a console that is open, whether or not it has a kernel. */
export interface IPlace {
  widget: NotebookPanel | ConsolePanel;
  sessionContext: ISessionContext;
  /** Null for a console. */
  notebook: NotebookPanel | null;
}

/** A notebook or a console that is open, with its kernel. */
export interface ITarget extends IPlace {
  kernelId: string;
}

/**
 * What is open on this page, and which kernels it works with.
 */
export class Targets {
  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    private readonly notebooks: INotebookTracker | null,
    private readonly consoles: IConsoleTracker | null
  ) {
    const look = () => this.look();
    shell.currentChanged?.connect(look);
    for (const tracker of [notebooks, consoles]) {
      tracker?.currentChanged.connect(look);
      tracker?.widgetAdded.connect((_, widget) => {
        const context = widget.sessionContext;
        context.kernelChanged.connect(look);
        context.connectionStatusChanged.connect(look);
        widget.disposed.connect(look);
        this.hasOpened.emit(placeOf(widget));
        look();
      });
    }
  }

  /** The current one; null if what is current is something else. */
  get current(): ITarget | null {
    return targetOf(this.focused);
  }

  /** The notebook or console that was current last. */
  get last(): ITarget | null {
    return targetOf(this.focused ?? this.previous);
  }

  /** The current notebook or console, even if it has no kernel. */
  get currentPlace(): IPlace | null {
    return this.focused && placeOf(this.focused);
  }

  /** The notebook or console that was current last, even if it has no kernel. */
  get lastPlace(): IPlace | null {
    const widget = this.focused ?? this.previous;
    return widget && placeOf(widget);
  }

  /** The one of that widget. */
  at(id: string): ITarget | null {
    for (const target of this.all()) {
      if (target.widget.id === id) {
        return target;
      }
    }
    return null;
  }

  /** Something has been opened, closed, or has another kernel. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** Something has been opened. */
  get opened(): ISignal<this, IPlace> {
    return this.hasOpened;
  }

  /** All that are open, with or without a kernel. */
  *places(): IterableIterator<IPlace> {
    for (const widget of this.widgets()) {
      if (!widget.isDisposed) {
        yield placeOf(widget);
      }
    }
  }

  /** All that are open and have a kernel. */
  *all(): IterableIterator<ITarget> {
    for (const widget of this.widgets()) {
      const target = targetOf(widget);
      if (target) {
        yield target;
      }
    }
  }

  /** Those that work with a kernel. */
  of(kernelId: string): ITarget[] {
    return [...this.all()].filter(target => target.kernelId === kernelId);
  }

  /** The notebook of that path, if it is open; whether or not it has a kernel. */
  notebook(path: string): NotebookPanel | undefined {
    return this.notebooks?.find(panel => panel.context.path === path);
  }

  private get focused(): Source | null {
    const { currentWidget } = this.shell;
    for (const widget of this.widgets()) {
      if (widget === currentWidget) {
        return widget;
      }
    }
    return null;
  }

  private *widgets(): IterableIterator<Source> {
    for (const tracker of [this.notebooks, this.consoles]) {
      const found: Source[] = [];
      tracker?.forEach(widget => found.push(widget));
      yield* found;
    }
  }

  private look(): void {
    this.previous = this.focused ?? this.previous;
    if (this.previous?.isDisposed) {
      this.previous = null;
    }
    this.hasChanged.emit();
  }

  private previous: Source | null = null;
  private readonly hasChanged = new Signal<this, void>(this);
  private readonly hasOpened = new Signal<this, IPlace>(this);
}

type Source = IPlace['widget'];

function placeOf(widget: Source): IPlace {
  return {
    widget,
    sessionContext: widget.sessionContext,
    notebook: 'context' in widget ? widget : null
  };
}

function targetOf(widget: Source | null): ITarget | null {
  const kernelId = widget?.sessionContext.session?.kernel?.id;
  if (!widget || !kernelId || widget.isDisposed) {
    return null;
  }
  return { kernelId, ...placeOf(widget) };
}
